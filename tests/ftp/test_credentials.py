"""Short-lived credentials in the store, on both of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wsp import epochs
from wsp.auth.service import create_user
from wsp.database import Database
from wsp.errors import Conflict, NotFound
from wsp.ftp import credentials, service
from wsp.ftp.admission import Reason
from wsp.ftp.checks import check_login
from wsp.ftp.credentials import MAX_CREDENTIALS
from wsp.ftp.logins import find_login, find_logins, narrowed
from wsp.ftp.models import Credential
from wsp.paging import Page
from wsp.settings import Settings

NOON = datetime(2026, 5, 18, 12, tzinfo=UTC)
EVERYTHING = Page()


@pytest.fixture
def accounts(database: Database) -> Database:
    """A store with the accounts `ann_deploy` and `ben_deploy`."""
    with database.transaction() as session:
        for owner in ("ann", "ben"):
            create_user(session, owner, role="user", email="")
            service.create_account(session, owner=owner, name="deploy", password_hash="x")
    return database


def issue(database: Database, **changes: Any) -> tuple[str, str]:
    """The id and the secret of a new credential."""
    terms: dict[str, Any] = {
        "folder": "/site",
        "allowed_ips": ["203.0.113.7"],
        "expires_in": 60,
        "description": "",
        "now": NOON,
        **changes,
    }
    with database.transaction() as session:
        credential, secret = credentials.issue_credential(session, "ann", "ann_deploy", **terms)
        return credential.id, secret


class TestIssue:
    def test_is_found_by_its_secret_and_its_account_only(self, accounts: Database) -> None:
        id, secret = issue(accounts)
        with accounts.reading() as session:
            found = credentials.find_credential(session, "ann_deploy", secret)
            assert found is not None
            assert (found.id, found.folder, found.allowed_ips) == (id, "/site", ["203.0.113.7"])
            assert found.expires_at == NOON + timedelta(seconds=60)
            assert credentials.find_credential(session, "ben_deploy", secret) is None
            assert credentials.find_credential(session, "ann_deploy", secret[:-1] + "x") is None
            assert secret not in repr([row.__dict__ for row in session.query(Credential)])

    def test_removes_those_that_expired(self, accounts: Database) -> None:
        first, _ = issue(accounts)
        second, _ = issue(accounts, now=NOON + timedelta(seconds=60))
        with accounts.reading() as session:
            assert [row.id for row in session.query(Credential)] == [second]
            assert first != second

    def test_of_somebody_elses_account(self, accounts: Database) -> None:
        with accounts.transaction() as session, pytest.raises(NotFound):
            credentials.issue_credential(
                session, "ben", "ann_deploy", folder="/", allowed_ips=[], expires_in=60, description="", now=NOON
            )

    def test_too_many(self, accounts: Database) -> None:
        for _ in range(MAX_CREDENTIALS):
            issue(accounts)
        with pytest.raises(Conflict, match=f"{MAX_CREDENTIALS} credentials already"):
            issue(accounts)

    def test_goes_with_its_account(self, accounts: Database) -> None:
        issue(accounts)
        with accounts.transaction() as session:
            service.delete_account(session, "ann", "ann_deploy")
        with accounts.reading() as session:
            assert session.query(Credential).all() == []


class TestList:
    def test_those_that_have_not_expired(self, accounts: Database) -> None:
        issue(accounts, description="short")
        issue(accounts, expires_in=3600, description="long", now=NOON + timedelta(seconds=1))
        with accounts.reading() as session:

            def described(page: Page, now: datetime) -> list[str]:
                found, total = credentials.list_credentials(session, "ann", "ann_deploy", page, now=now)
                assert total >= len(found)
                return [credential.description for credential in found]

            assert described(EVERYTHING, NOON) == ["short", "long"]
            assert described(EVERYTHING, NOON + timedelta(seconds=60)) == ["long"]
            assert described(Page(limit=1), NOON) == ["short"]
            assert described(Page(search="LON"), NOON) == ["long"]
            with pytest.raises(NotFound):
                credentials.list_credentials(session, "ben", "ann_deploy", EVERYTHING, now=NOON)


class TestRevoke:
    def test_is_gone_and_its_sessions_are_told(self, accounts: Database) -> None:
        id, secret = issue(accounts)
        with accounts.transaction() as session:
            before = epochs.current(session)["ftp"]
            with pytest.raises(NotFound):
                credentials.revoke_credential(session, "ben", "ben_deploy", id)
            credentials.revoke_credential(session, "ann", "ann_deploy", id)
            assert epochs.current(session)["ftp"] > before
        with accounts.reading() as session:
            assert credentials.find_credential(session, "ann_deploy", secret) is None
        with accounts.transaction() as session, pytest.raises(NotFound, match="Credential not found"):
            credentials.revoke_credential(session, "ann", "ann_deploy", id)


class TestNarrowed:
    @pytest.mark.parametrize(("account_ends_in", "expected"), [(None, 60), (30, 30), (90, 60)])
    def test_it_ends_with_whichever_ends_first(
        self, accounts: Database, account_ends_in: int | None, expected: int
    ) -> None:
        issue(accounts)
        ends = None if account_ends_in is None else NOON + timedelta(seconds=account_ends_in)
        with accounts.transaction() as session:
            service.change_account(session, "ann", "ann_deploy", {"expires_at": ends})
        with accounts.reading() as session:
            login = find_login(session, "ann_deploy")
            assert login is not None
            assert narrowed(login, session.query(Credential).one()).expires_at == NOON + timedelta(seconds=expected)


class TestFindLogins:
    def test_a_session_of_a_credential_is_told_what_it_is_now(self, accounts: Database) -> None:
        id, _ = issue(accounts)
        with accounts.reading() as session:
            login = find_login(session, "ann_deploy")
            assert login is not None
            narrow = narrowed(login, session.get_one(Credential, id))
            key = narrow.key
            assert find_logins(session, ["ann_deploy", key]) == {"ann_deploy": login, key: narrow}
            assert find_logins(session, [f"ben_deploy#{id}"]) == {f"ben_deploy#{id}": None}
        with accounts.transaction() as session:
            credentials.revoke_credential(session, "ann", "ann_deploy", id)
        with accounts.reading() as session:
            assert find_logins(session, ["ann_deploy", key]) == {"ann_deploy": login, key: None}


class TestCheckLogin:
    def test_its_secret_is_a_password(self, accounts: Database, settings: Settings) -> None:
        _, secret = issue(accounts)

        def check(address: str, password: str, now: datetime = NOON) -> str:
            denied = check_login(
                accounts, "ann_deploy", address, tls=False, password=password, settings=settings, now=now
            )
            return "" if denied is None else denied.reason

        assert check("203.0.113.7", secret) == ""
        assert check("203.0.113.8", secret) == Reason.ADDRESS_NOT_ALLOWED
        assert check("203.0.113.7", secret, NOON + timedelta(seconds=60)) == Reason.EXPIRED
        assert check("203.0.113.7", secret[:-1] + "g") == Reason.WRONG_PASSWORD


class TestNoteUse:
    def test_to_the_minute(self, accounts: Database) -> None:
        id, _ = issue(accounts)
        with accounts.transaction() as session:
            credential = session.get_one(Credential, id)
            assert credentials.needs_note(credential, now=NOON)
            credentials.note_use(session, credential, now=NOON)
        with accounts.reading() as session:
            credential = session.get_one(Credential, id)
            assert credential.last_used_at == NOON
            assert not credentials.needs_note(credential, now=NOON + timedelta(seconds=59))
            assert credentials.needs_note(credential, now=NOON + timedelta(seconds=60))
