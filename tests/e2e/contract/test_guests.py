"""Bans, and the check of a login, against a running server."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp.models import FtpAccount, Guest
from wsp.ftp.records import SessionRow
from wsp.heartbeat import ServiceRow

pytestmark = pytest.mark.e2e

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+07:00")
PASSWORD = "S3cure•pass"


@pytest.fixture
def banned(store_of_server: Database) -> Callable[..., None]:
    """Bans an address, as the FTP server would."""

    def ban(address: str, *, seconds: int = 300, bans: int = 1) -> None:
        now = utc_now()
        with store_of_server.transaction() as session:
            session.merge(
                Guest(
                    kind="address",
                    subject=address,
                    score=0.0,
                    scored_at=now,
                    bans=bans,
                    banned_at=now,
                    banned_until=now + timedelta(seconds=seconds),
                    reason="10 failed logins, the last one for an account that does not exist",
                )
            )

    return ban


class TestListBans:
    def test_shows_those_in_force(self, admin: Any, banned: Callable[..., None]) -> None:
        banned("203.0.113.7", bans=2)
        banned("203.0.113.8", seconds=-1)
        answer = admin("GET", "/ftp/bans?search=203.0.113")
        assert answer.status_code == 200
        assert answer.headers["X-Total-Count"] == "1"
        assert list(answer.json()) == ["bans", "total"]
        (ban,) = answer.json()["bans"]
        assert list(ban) == ["address", "reason", "banned_at", "banned_until", "bans"]
        assert (ban["address"], ban["bans"]) == ("203.0.113.7", 2)
        assert ban["reason"] == "10 failed logins, the last one for an account that does not exist"
        assert TIME.fullmatch(ban["banned_at"])
        assert TIME.fullmatch(ban["banned_until"])

    def test_comes_in_parts(self, admin: Any, banned: Callable[..., None]) -> None:
        for number in range(3):
            banned(f"198.51.100.{number}")
        answer = admin("GET", "/ftp/bans/?search=198.51.100&limit=1&offset=1")
        assert (len(answer.json()["bans"]), answer.json()["total"]) == (1, 3)
        assert answer.headers["Link"].count("rel=") == 2

    def test_is_for_admins(self, ann: Any) -> None:
        answer = ann("GET", "/ftp/bans")
        assert (answer.status_code, answer.json()["error"]) == (403, "Only an admin may see and lift bans")


class TestLiftBan:
    @pytest.mark.parametrize(
        ("listed", "given"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", "::ffff:192.0.2.7/"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::%2F64"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::77"),
        ],
    )
    def test_it_is_gone(self, admin: Any, banned: Callable[..., None], listed: str, given: str) -> None:
        banned(listed)
        answer = admin("DELETE", f"/ftp/bans/{given}")
        assert (answer.status_code, answer.json()) == (200, {"message": "Ban lifted successfully"})
        assert admin("GET", f"/ftp/bans?search={listed}").json()["total"] == 0
        again = admin("DELETE", f"/ftp/bans/{given}")
        assert (again.status_code, again.json()["error"]) == (404, "Ban not found")

    @pytest.mark.parametrize("given", ["nonsense", "1.2.3", "192.0.2.0/24", "2001:db8::/32", "fe80::1%eth0", "a%00b"])
    def test_what_is_no_address_is_said_so(self, admin: Any, given: str) -> None:
        answer = admin("DELETE", f"/ftp/bans/{given}")
        assert answer.status_code == 400
        assert answer.json()["details"][0]["field"] == "address"

    def test_is_for_admins(self, ann: Any) -> None:
        assert ann("DELETE", "/ftp/bans/192.0.2.7").status_code == 403


class TestCheckLogin:
    @pytest.fixture
    def account(self, ann: Any) -> str:
        username = ann("POST", "/ftp/", {"username": "web", "password": PASSWORD}).json()["username"]
        return str(username)

    @pytest.fixture
    def check(self, ann: Any, account: str) -> Callable[..., dict[str, Any]]:
        def asked(**body: Any) -> dict[str, Any]:
            answer = ann("POST", f"/ftp/{account}/check", {"address": "203.0.113.77", "tls": True} | body)
            assert answer.status_code == 200, answer.text
            assert list(answer.json()) == ["allowed", "reason", "message"]
            return dict(answer.json())

        return asked

    @pytest.fixture
    def change(self, account: str, store_of_server: Database) -> Callable[..., None]:
        def changed(**columns: Any) -> None:
            with store_of_server.transaction() as session:
                row = session.query(FtpAccount).filter_by(username=account).one()
                for name, value in columns.items():
                    setattr(row, name, value)

        return changed

    def test_says_yes(self, check: Callable[..., dict[str, Any]]) -> None:
        yes = {"allowed": True, "reason": None, "message": "A login with the right password would be allowed."}
        assert check() == yes
        assert check(password=PASSWORD) == yes | {"message": "This login would be allowed."}

    def test_says_why_not(
        self,
        check: Callable[..., dict[str, Any]],
        change: Callable[..., None],
        banned: Callable[..., None],
        ann: Any,
        store_of_server: Database,
    ) -> None:
        assert check(password="wrong") == {
            "allowed": False,
            "reason": "wrong_password",
            "message": "The password is wrong.",
        }
        change(require_tls=True)
        assert check()["allowed"]
        assert check(tls=False)["reason"] == "tls_required"
        change(allowed_ips=["198.51.100.0/24"])
        answer = check(tls=False)
        assert answer["reason"] == "address_not_allowed"
        assert answer["message"] == "The address 203.0.113.77 is not one that the account allows."
        assert check(address="::ffff:198.51.100.5")["allowed"]
        change(expires_at=utc_now() - timedelta(seconds=1))
        assert check()["reason"] == "expired"
        change(enabled=False)
        assert check()["reason"] == "disabled"
        banned("203.0.113.80")
        answer = check(address="203.0.113.80", password="wrong")
        assert answer["reason"] == "address_banned"
        assert re.search(r"banned until .*\+07:00: too many logins failed\.$", answer["message"])

    def test_sees_that_the_owner_is_disabled(
        self, admin: Any, ann: Any, account: str, store_of_server: Database
    ) -> None:
        with store_of_server.transaction() as session:
            session.query(User).filter_by(username=ann.username).one().status = "disabled"
        answer = admin("POST", f"/ftp/{account}/check", {"address": "203.0.113.78", "tls": True})
        assert answer.json()["reason"] == "owner_disabled"

    def test_counts_the_sessions_of_living_processes(
        self, check: Callable[..., dict[str, Any]], change: Callable[..., None], account: str, store_of_server: Database
    ) -> None:
        change(max_sessions=1)
        now = utc_now()
        with store_of_server.transaction() as session:
            alive = session.query(ServiceRow).filter_by(kind="ftp").first()
            assert alive is not None
            row = {"username": account, "owner": "x", "address": "192.0.2.1", "started_at": now, "active_at": now}
            session.add(SessionRow(id=f"dead-{account}"[:32], service_id="gone", **row))
        assert check()["allowed"]
        with store_of_server.transaction() as session:
            session.add(SessionRow(id=f"live-{account}"[:32], service_id=alive.id, **row))
        answer = check()
        assert answer["reason"] == "too_many_sessions"
        assert answer["message"] == "The account has the 1 sessions that it may have at once."

    def test_counts_as_no_attempt(
        self, check: Callable[..., dict[str, Any]], account: str, store_of_server: Database
    ) -> None:
        for _ in range(12):
            assert check(address="203.0.113.99", password="wrong")["reason"] == "wrong_password"
        with store_of_server.reading() as session:
            assert session.query(Guest).filter(Guest.subject.in_(["203.0.113.99", account])).count() == 0

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("address", "nonsense"),
            ("address", "192.0.2.0/24"),
            ("address", "fe80::1%eth0"),
            ("address", ""),
            ("address", 5),
            ("address", None),
            ("tls", "yes"),
            ("tls", None),
            ("password", ""),
            ("password", 5),
            ("password", None),
            ("password", "a\0b"),
            ("port", 21),
        ],
    )
    def test_names_the_field_that_is_wrong(self, ann: Any, account: str, field: str, value: Any) -> None:
        answer = ann("POST", f"/ftp/{account}/check", {"address": "192.0.2.1", "tls": True, field: value})
        assert answer.status_code == 400
        assert answer.json()["details"][0]["field"] == field

    def test_needs_address_and_tls(self, ann: Any, account: str) -> None:
        answer = ann("POST", f"/ftp/{account}/check")
        assert (answer.status_code, answer.json()["error"]) == (400, "Address is required")
        answer = ann("POST", f"/ftp/{account}/check", {"address": "192.0.2.1"})
        assert (answer.status_code, answer.json()["error"]) == (400, "TLS is required")

    def test_of_an_account_that_is_not_there(self, ann: Any) -> None:
        assert ann("POST", "/ftp/nobody_web/check", {"address": "192.0.2.1", "tls": True}).status_code == 404
