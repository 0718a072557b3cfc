"""What is committed reaches the sessions that are logged in already: on every process, on both stores."""

import ftplib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from wsp.auth.service import change_user, create_user
from wsp.database import Database, utc_now
from wsp.ftp.anonymous import change_access
from wsp.ftp.models import AnonymousAccess
from wsp.ftp.service import change_account, delete_account, toggle_account
from wsp.passwords import hash_password

pytestmark = pytest.mark.e2e

PROMPT_SECONDS = 5.0  # for machines that are busy with other things; one second is what the documentation says

Change = Callable[[Session, Any], object]

ENDING: dict[str, Change] = {
    "The account is disabled.": lambda session, a: toggle_account(session, None, a.username),
    "The account was deleted.": lambda session, a: delete_account(session, None, a.username),
    "The password of the account was changed.": lambda session, a: change_account(
        session, None, a.username, {"password_hash": hash_password("another")}
    ),
    "The address 127.0.0.1 is not one that the account allows.": lambda session, a: change_account(
        session, None, a.username, {"allowed_ips": ["203.0.113.0/24"]}
    ),
    "The account needs TLS, and this is a login in clear text.": lambda session, a: change_account(
        session, None, a.username, {"require_tls": True}
    ),
    "The home folder of the account was changed.": lambda session, a: change_account(
        session, None, a.username, {"domain": "example.com"}
    ),
    "The user {owner}, who owns the account, is not active.": lambda session, a: change_user(
        session, a.username.partition("_")[0], status="disabled"
    ),
}


@pytest.fixture
def running(new_server: Callable[..., Any]) -> Any:
    """Two processes."""
    server = new_server()
    with server.database.transaction() as session:
        create_user(session, "admin", role="admin")  # the last one cannot be disabled, and owners have to be
    return server.start().start()


@pytest.fixture
def on_each(connect: Callable[..., Any], until: Any) -> Callable[..., list[ftplib.FTP]]:
    """Sessions of an account, at least one on each process."""

    def opened(server: Any, account: Any) -> list[ftplib.FTP]:
        sessions: list[ftplib.FTP] = []

        def everywhere() -> bool:
            sessions.append(connect(server, account))
            login = f"login: user {account.username} "
            return all(login in path.read_text() for path in server.folder.glob("ftp-*.log"))

        until(everywhere, "a session on each process", seconds=60)
        return sessions

    return opened


def commit(database: Database, change: Change, account: Any) -> float:
    """Commit a change as the API does. Returns the moment of its answer."""
    with database.transaction() as session:
        change(session, account)
    return time.monotonic()


def begin_upload(client: ftplib.FTP, name: str = "f", content: bytes = b"half") -> socket.socket:
    client.voidcmd("TYPE I")
    data = client.transfercmd(f"STOR {name}")
    data.sendall(content)
    return data


def last_words(client: ftplib.FTP) -> str:
    """What the server says, unasked, before it closes the connection."""
    with pytest.raises((ftplib.error_temp, ftplib.error_perm)) as said:
        client.voidresp()
    with pytest.raises(EOFError):
        client.voidresp()
    return str(said.value)


class TestEnding:
    def test_every_change_ends_every_session_and_transfer_with_its_reason(
        self, running: Any, on_each: Any, until: Any
    ) -> None:
        for sentence, change in ENDING.items():
            account = running.account()
            sessions = on_each(running, account)
            (account.home / "f").write_bytes(b"old")
            data = [begin_upload(client) for client in sessions[-2:]]
            until(lambda account=account: len(list(account.home.glob(".wsp-upload-*.tmp"))) == 2)

            answered = commit(running.database, change, account)
            said = {last_words(client) for client in sessions}
            elapsed = time.monotonic() - answered
            assert elapsed < PROMPT_SECONDS
            print(f"{len(sessions)} sessions ended {elapsed:.3f} s after the answer: {sentence}")  # noqa: T201
            assert said == {f"421 {sentence.format(owner=account.username.partition('_')[0])}"}
            for connection in data:
                connection.close()
            until(lambda account=account: not list(account.home.glob(".wsp-upload-*.tmp")))
            assert (account.home / "f").read_bytes() == b"old"
        assert "Traceback" not in running.log

    def test_a_download_is_cut_too_in_clear_text_and_over_tls(self, running: Any, connect: Any) -> None:
        for tls in (False, True):
            account = running.account()
            client = connect(running, account, tls=tls)
            (account.home / "f").write_bytes(bytes(64 * 2**20))
            client.voidcmd("TYPE I")
            data = client.transfercmd("RETR f")
            data.recv(1000)
            commit(running.database, lambda session, a: toggle_account(session, None, a.username), account)
            assert last_words(client) == "421 The account is disabled."
            received = 0
            with suppress(OSError):  # over TLS, an end without a farewell is one
                while chunk := data.recv(2**20):
                    received += len(chunk)
            assert received < 64 * 2**20
            data.close()

    def test_anonymous_access_that_is_turned_off(self, running: Any, connect: Any) -> None:
        running.anonymous("a.example")
        client = connect(running)
        client.login("anonymous@a.example", "me@")
        commit(
            running.database,
            lambda session, _: change_access(
                session, None, "a.example", owner=session.query(AnonymousAccess).one().owner, changes={"enabled": False}
            ),
            None,
        )
        assert last_words(client) == "421 Anonymous access was turned off."

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_visitor_of_several_domains_goes_when_one_of_them_is_turned_off(
        self, new_server: Any, connect: Any, put: Any, store: str
    ) -> None:
        running = new_server().start()
        folders = [running.anonymous(name) for name in ("one.example", "two.example")]
        client = connect(running)
        client.login("anonymous", "me@")
        assert client.nlst("one.example") == []
        owner = folders[0].parent.name
        with running.database.transaction() as session:
            change_access(session, owner, "three.example", owner=owner, changes={"enabled": True})
        account = running.account()  # one whose change is told to the process after that of the domain
        other = connect(running, account)
        commit(running.database, lambda session, a: toggle_account(session, None, a.username), account)
        assert last_words(other).startswith("421")
        assert sorted(client.nlst()) == ["one.example", "two.example"]
        with running.database.transaction() as session:
            change_access(session, owner, "one.example", owner=owner, changes={"enabled": False})
        assert last_words(client) == "421 Anonymous access was turned off."

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_client_that_does_not_read_is_cut_all_the_same(
        self, running: Any, raw: Any, until: Any, store: str
    ) -> None:
        account = running.account()
        deaf = raw(running).login(account)
        deaf.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                deaf.send(b"FEAT\r\n" * 1000)
        commit(running.database, lambda session, a: toggle_account(session, None, a.username), account)
        until(lambda: f"disconnect: user {account.username}" in running.log, seconds=PROMPT_SECONDS)

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_nobody_slips_in_while_an_account_is_disabled(
        self, running: Any, connect: Any, until: Any, store: str
    ) -> None:
        for _ in range(5):
            account = running.account()
            in_time: list[ftplib.FTP] = []

            def log_in(account: Any = account, in_time: list[ftplib.FTP] = in_time) -> None:
                for _ in range(10):
                    try:
                        in_time.append(connect(running, account))
                    except ftplib.error_perm:
                        return

            threads = [threading.Thread(target=log_in) for _ in range(3)]
            for thread in threads:
                thread.start()
            until(lambda in_time=in_time: len(in_time) > 3)
            commit(running.database, lambda session, a: toggle_account(session, None, a.username), account)
            for thread in threads:
                thread.join()
            assert {last_words(client) for client in in_time} == {"421 The account is disabled."}


class TestDemotion:
    def test_read_only_cuts_uploads_and_the_session_stays(
        self, running: Any, connect: Any, fetch: Any, put: Any
    ) -> None:
        account = running.account()
        client, other = connect(running, account), connect(running, account)
        (account.home / "f").write_bytes(b"old")
        data = begin_upload(client)
        waiting = other.makepasv()  # a promise of an upload whose data connection has not come
        assert waiting
        assert other.sendcmd("STOR g").startswith("150")

        commit(
            running.database, lambda session, a: change_account(session, None, a.username, {"read_only": True}), account
        )
        for demoted in (client, other):
            with pytest.raises(ftplib.error_perm, match=r"550 The account is read-only now\."):
                demoted.voidresp()
        data.close()
        assert fetch(client, "f") == b"old"
        assert fetch(other, "f") == b"old"
        with pytest.raises(ftplib.error_perm, match="550"):
            client.mkd("d")

        commit(
            running.database,
            lambda session, a: change_account(session, None, a.username, {"read_only": False}),
            account,
        )
        until_allowed(client)
        assert put(client, "f", b"new").startswith("226")

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_narrower_permissions_cut_what_they_forbid_and_the_session_stays(
        self, new_server: Any, connect: Any, until: Any, store: str
    ) -> None:
        running = new_server().start()
        account = running.account()
        for name in ("open", "shut"):
            (account.home / name).mkdir(parents=True)
            (account.home / name / "f").write_bytes(b"x")
        in_open, in_shut = connect(running, account), connect(running, account)
        data = [begin_upload(in_open, "open/g"), begin_upload(in_shut, "shut/g")]
        until(lambda: len(list(account.home.rglob(".wsp-upload-*.tmp"))) == 2)
        permissions = [{"folder": "/shut", "allow": ["list"]}]
        commit(
            running.database,
            lambda session, a: change_account(session, None, a.username, {"permissions": permissions}),
            account,
        )
        with pytest.raises(ftplib.error_perm, match="550 The account may not do that any more"):
            in_shut.voidresp()
        with pytest.raises(ftplib.error_perm, match="550 'read' is not allowed in /shut"):
            in_shut.size("shut/f")
        assert in_shut.size("open/f") == 1
        for one in data:
            one.close()
        assert in_open.voidresp().startswith("226")
        assert not (account.home / "shut" / "g").exists()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_an_upload_that_outlived_its_login_is_cut_too(
        self, new_server: Any, connect: Any, until: Any, store: str
    ) -> None:
        running = new_server().start()
        changes: list[dict[str, Any]] = [
            {"read_only": True},
            {"permissions": [{"folder": "/", "allow": ["list"]}]},
        ]
        for change in changes:
            account, another = running.account(), running.account()
            client = connect(running, account)
            data = begin_upload(client)
            until(lambda account=account: list(account.home.glob(".wsp-upload-*.tmp")))
            client.login(another.username, another.password)
            with running.database.transaction() as session:
                change_account(session, None, account.username, change)
            with pytest.raises(ftplib.error_perm, match="550 The account"):
                client.voidresp()
            data.close()
            assert client.nlst() == []
            assert not (account.home / "f").exists()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_without_overwrite_any_more_no_file_is_replaced(
        self, new_server: Any, connect: Any, until: Any, store: str
    ) -> None:
        running = new_server().start()
        account = running.account()
        (account.home / "f").parent.mkdir(parents=True)
        (account.home / "f").write_bytes(b"old")
        replacing, adding = connect(running, account), connect(running, account)
        data = begin_upload(replacing), begin_upload(adding, "g")
        until(lambda: len(list(account.home.glob(".wsp-upload-*.tmp"))) == 2)
        rules = [{"folder": "/", "allow": ["list", "read", "write"]}]
        commit(
            running.database,
            lambda session, a: change_account(session, None, a.username, {"permissions": rules}),
            account,
        )
        with pytest.raises(ftplib.error_perm, match="550 The account may not do that any more"):
            replacing.voidresp()
        (account.home / "g").write_bytes(b"came meanwhile")
        for one in data:
            one.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            adding.voidresp()
        assert (account.home / "f").read_bytes() == b"old"
        assert (account.home / "g").read_bytes() == b"came meanwhile"

    def test_a_client_that_is_busy_sending_gets_to_read_why(self, running: Any, connect: Any, until: Any) -> None:
        account = running.account()
        client = connect(running, account)

        def parts() -> list[Path]:
            return list(account.home.glob(".wsp-upload-*.tmp"))

        class Source:
            """Has the account demoted after the first block, and goes on a little longer than the upload."""

            reads = 0

            def read(self, size: int) -> bytes:
                self.reads += 1
                if self.reads == 2:
                    until(parts)
                    commit(
                        running.database,
                        lambda session, a: change_account(session, None, a.username, {"read_only": True}),
                        account,
                    )
                    until(lambda: not parts())
                return bytes(size) if self.reads <= 50 else b""

        with pytest.raises(ftplib.error_perm, match=r"550 The account is read-only now\."):
            client.storbinary("STOR f", Source())
        assert "f" not in client.nlst()

    def test_a_download_of_a_demoted_account_goes_on(self, running: Any, connect: Any) -> None:
        account = running.account()
        client, other = connect(running, account), connect(running, account)
        (account.home / "f").write_bytes(bytes(32 * 2**20))
        client.voidcmd("TYPE I")
        data = client.transfercmd("RETR f")
        commit(
            running.database, lambda session, a: change_account(session, None, a.username, {"read_only": True}), account
        )
        until_refused(other)
        received = 0
        while chunk := data.recv(2**20):
            received += len(chunk)
        data.close()
        assert received == 32 * 2**20
        assert client.voidresp().startswith("226")


def until_refused(client: ftplib.FTP) -> None:
    deadline = time.monotonic() + PROMPT_SECONDS
    while time.monotonic() < deadline:
        try:
            client.mkd("d")
            client.rmd("d")
        except ftplib.error_perm:
            return
    pytest.fail("it may still write")


def until_allowed(client: ftplib.FTP) -> None:
    deadline = time.monotonic() + PROMPT_SECONDS
    while time.monotonic() < deadline:
        try:
            client.mkd("allowed")
        except ftplib.error_perm:
            continue
        return
    pytest.fail("it may still not write")


class TestGoingOn:
    def test_what_changes_nothing_for_a_session_leaves_it_alone(self, running: Any, connect: Any) -> None:
        account, other = running.account(), running.account()
        client = connect(running, account)
        data = begin_upload(client)
        commit(
            running.database,
            lambda session, a: change_account(session, None, a.username, {"allowed_ips": ["127.0.0.0/8"]}),
            account,
        )
        commit(running.database, lambda session, a: delete_account(session, None, a.username), other)
        commit(running.database, lambda session, a: change_account(session, None, a.username, {"quota_mb": 5}), account)
        data.sendall(b" and half")
        data.close()
        assert client.voidresp().startswith("226")
        assert (account.home / "f").read_bytes() == b"half and half"

    def test_a_transfer_ends_with_the_account_that_began_it(self, running: Any, connect: Any) -> None:
        former, later = running.account(), running.account()
        client = connect(running, former)
        data = begin_upload(client)
        client.login(later.username, later.password)
        commit(running.database, lambda session, a: toggle_account(session, None, a.username), former)
        with pytest.raises(ftplib.error_temp, match=r"426 The account is disabled\."):
            client.voidresp()
        data.close()
        assert not (former.home / "f").exists()
        assert client.pwd() == "/"

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_store_that_is_away_ends_nobody_and_hides_nothing(
        self, running: Any, connect: Any, until: Any, store: str
    ) -> None:
        account = running.account()
        client = connect(running, account)
        with running.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE epochs RENAME TO gone")
        until(lambda: running.log.count("changes of accounts cannot be followed") == 2)
        assert client.pwd() == "/"
        with running.database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE ftp_accounts SET enabled = 0")
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO epochs")
        assert last_words(client) == "421 The account is disabled."
        until(lambda: running.log.count("changes of accounts are followed again") == 2)


class TestExpiry:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_session_ends_when_its_account_expires(self, running: Any, connect: Any, store: str) -> None:
        account = running.account()
        client = connect(running, account)
        data = begin_upload(client)
        at = utc_now() + timedelta(seconds=1.5)
        commit(
            running.database, lambda session, a: change_account(session, None, a.username, {"expires_at": at}), account
        )
        assert client.voidcmd("NOOP").startswith("200")
        assert last_words(client).startswith("421 The account expired at ")
        assert timedelta(0) <= utc_now() - at < timedelta(seconds=PROMPT_SECONDS)
        data.close()
        assert not (account.home / "f").exists()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_one_that_was_let_in_before_it_expires_too(self, running: Any, connect: Any, store: str) -> None:
        account = running.account(expires_at=utc_now() + timedelta(seconds=3))
        assert last_words(connect(running, account)).startswith("421 The account expired at ")
