"""Logins with short-lived credentials, on each store."""

import ftplib
import hashlib
import select
from datetime import timedelta
from typing import Any

import pytest

from wsp.database import utc_now
from wsp.ftp import credentials
from wsp.ftp.models import Credential
from wsp.ftp.records import Transfer

pytestmark = pytest.mark.e2e


@pytest.fixture
def running(new_server: Any) -> Any:
    """A started server on each store."""
    return new_server(WSP_FTP_BAN_FAILURES="0").start()


def issue(server: Any, account: Any, **changes: Any) -> Any:
    """The account with the secret of a new credential as its password."""
    terms = {
        "folder": "/site",
        "allowed_ips": [],
        "expires_in": 3600,
        "description": "",
        "now": utc_now(),
        **changes,
    }
    with server.database.transaction() as session:
        _, secret = credentials.issue_credential(session, None, account.username, **terms)
    return type(account)(account.username, account.home, secret)


def is_over(client: ftplib.FTP) -> bool:
    """Whether the server has said something without being asked."""
    assert client.sock is not None
    return bool(select.select([client.sock], [], [], 0)[0])


class TestLogin:
    def test_its_folder_is_all_that_there_is(self, running: Any, connect: Any, put: Any, fetch: Any) -> None:
        account = running.account()
        client = connect(running, issue(running, account))  # the folder is made
        site = account.home / "site"
        (account.home / "secret").write_text("secret")
        (site / "out").symlink_to("../secret")
        (site / "absolute").symlink_to(account.home / "secret")
        (site / "own").symlink_to(site / "page")
        put(client, "page", b"1")
        assert (site / "page").read_bytes() == b"1"
        assert fetch(client, "own") == b"1"
        assert client.pwd() == "/"
        for command in ("RETR ../secret", "RETR /secret", "RETR out", "RETR absolute", "RETR /site/page"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.retrbinary(command, bytes)
        for command in ("CWD ../site", "CWD out", "SITE CHMOD 777 out", "HASH out"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        assert (account.home / "secret").read_text() == "secret"

    def test_it_deploys_its_folder(self, running: Any, connect: Any, put: Any) -> None:
        account = running.account()
        client = connect(running, issue(running, account))
        put(client, "page", b"1")
        client.sendcmd("SITE STAGE /")
        put(client, "page", b"2")
        client.mkd("deep")
        put(client, "deep/page", b"3")
        assert sorted(client.nlst()) == ["deep", "page"]
        site = account.home / "site"
        assert [path.name for path in site.iterdir()] == ["page"]
        assert (site / "page").read_bytes() == b"1"
        client.sendcmd("SITE PUBLISH")
        assert (site / "page").read_bytes() == b"2"
        assert (site / "deep" / "page").read_bytes() == b"3"
        put(client, "page", b"4")
        assert (site / "page").read_bytes() == b"4"
        client.sendcmd("SITE ROLLBACK")
        assert (site / "page").read_bytes() == b"1"

    def test_what_does_not_let_in(self, running: Any, connect: Any) -> None:
        account, other = running.account(), running.account()
        good = issue(running, account)
        connect(running, good).close()
        wrong = [
            type(good)(other.username, other.home, good.password),
            type(good)(good.username, good.home, good.password[:-1] + "g"),
            type(good)(good.username, good.home, good.password[:-1] + ("0" if good.password[-1] != "0" else "1")),
            issue(running, account, allowed_ips=["203.0.113.7"]),
            issue(running, account, now=utc_now() - timedelta(seconds=3601)),
        ]
        for attempt in wrong:
            with pytest.raises(ftplib.error_perm, match="530 Login incorrect"):
                connect(running, attempt)
        for reason in ("not one that the credential allows", "The credential expired at"):
            assert reason in running.log
        running.change(account, allowed_ips=["203.0.113.7"])
        with pytest.raises(ftplib.error_perm, match="530"):
            connect(running, good)
        running.change(account, allowed_ips=[], enabled=False)
        with pytest.raises(ftplib.error_perm, match="530"):
            connect(running, good)
        running.change(account, enabled=True, require_tls=True)
        with pytest.raises(ftplib.error_perm, match="530 This login needs TLS"):
            connect(running, good)
        connect(running, good, tls=True)
        assert good.password not in running.log

    def test_its_sessions_end_when_it_is_revoked(self, running: Any, connect: Any, put: Any, until: Any) -> None:
        account = running.account()
        bound, free = connect(running, issue(running, account)), connect(running, account)
        with running.database.transaction() as session:
            (credential,) = session.query(Credential).all()
            credentials.revoke_credential(session, None, account.username, credential.id)
        until(lambda: is_over(bound), seconds=2)
        assert bound.getline() == "421 The credential was revoked."
        free.voidcmd("NOOP")

    def test_its_sessions_end_when_it_expires(self, running: Any, connect: Any, until: Any) -> None:
        account = running.account()
        client = connect(running, issue(running, account, now=utc_now() - timedelta(seconds=3598)))
        until(lambda: is_over(client), seconds=10)
        assert "The credential expired at" in client.getline()

    def test_its_uploads_are_recorded_where_the_account_finds_them(
        self, running: Any, connect: Any, put: Any, until: Any
    ) -> None:
        account = running.account()
        put(connect(running, issue(running, account)), "page", b"1")

        def recorded() -> list[Transfer]:
            with running.database.reading() as session:
                return list(session.query(Transfer))

        (transfer,) = until(recorded)
        assert transfer.path == "/site/page"
        assert transfer.checksum == f"sha256:{hashlib.sha256(b'1').hexdigest()}"

    def test_its_use_is_noted(self, running: Any, connect: Any) -> None:
        account = running.account()
        connect(running, issue(running, account))
        with running.database.reading() as session:
            (credential,) = session.query(Credential).all()
            assert credential.last_used_at is not None
