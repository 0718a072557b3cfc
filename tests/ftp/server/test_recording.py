"""What is written down of sessions and transfers, on both stores; and that nothing is of passwords."""

import ftplib
import io
import json
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from wsp.database import utc_now
from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.ftp.service import toggle_account
from wsp.ftp.sessions import end_session, last_session, list_sessions
from wsp.paging import Page
from wsp.webhooks.models import Delivery, Webhook

pytestmark = pytest.mark.e2e

EVERYTHING = Page()


@pytest.fixture
def running(new_server: Callable[..., Any]) -> Any:
    return new_server().start()


class Store:
    """What a server wrote down."""

    def __init__(self, server: Any) -> None:
        self._database = server.database

    def sessions(self, username: str) -> list[SessionRow]:
        with self._database.reading() as session:
            rows, _ = list_sessions(session, None, EVERYTHING, now=utc_now())
        return [row for row in rows if row.username == username]

    def transfers(self, username: str) -> list[Transfer]:
        with self._database.reading() as session:
            query = select(Transfer).where(Transfer.username == username).order_by(Transfer.id)
            return list(session.scalars(query))

    def last(self, username: str) -> LastSession | None:
        with self._database.reading() as session:
            row: LastSession | None = session.get(LastSession, username)
            return row


@pytest.fixture
def store_of(running: Any) -> Store:
    return Store(running)


class TestSessions:
    def test_a_session_is_shown_with_what_it_does_until_it_ends(
        self, running: Any, store_of: Store, connect: Any, until: Any
    ) -> None:
        account = running.account()
        client = connect(running, account, tls=True)
        client.sendcmd("CLNT tester 1.0")
        client.cwd("/")
        row = until(lambda: [r for r in store_of.sessions(account.username) if r.command == "CWD"])[0]
        assert (row.owner, row.address, row.client) == (account.username.partition("_")[0], "127.0.0.1", "tester 1.0")
        assert (row.tls, row.direction, row.path) == ("TLSv1.3", "", "")

        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR big.bin")
        data.sendall(bytes(100_000))
        row = until(lambda: [r for r in store_of.sessions(account.username) if r.transferred == 100_000])[0]
        assert (row.direction, row.path, row.bytes_uploaded) == ("upload", "/big.bin", 100_000)
        data.sendall(bytes(50_000))
        row = until(lambda: [r for r in store_of.sessions(account.username) if r.transferred == 150_000])[0]
        assert row.rate > 0
        data.unwrap()
        data.close()
        client.voidresp()
        row = until(lambda: [r for r in store_of.sessions(account.username) if r.uploads == 1])[0]
        assert (row.direction, row.transferred, row.bytes_uploaded) == ("", 0, 150_000)
        client.quit()
        until(lambda: not store_of.sessions(account.username), "the end of the row")

    def test_an_idle_session_is_not_written_again(
        self, running: Any, store_of: Store, connect: Any, until: Any, database: Any
    ) -> None:
        idle, busy = running.account(), running.account()
        connect(running, idle)
        until(lambda: store_of.sessions(idle.username))
        with database.transaction() as session:
            session.execute(update(SessionRow).values(client="untouched"))
        client = connect(running, busy)
        until(lambda: [r for r in store_of.sessions(busy.username) if r.client == ""])
        client.cwd("/")
        until(lambda: [r for r in store_of.sessions(busy.username) if r.command == "CWD"])
        assert [row.client for row in store_of.sessions(idle.username)] == ["untouched"]

    def test_a_request_ends_that_session_alone(
        self, running: Any, store_of: Store, connect: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        first, second = connect(running, account), connect(running, account)
        second.sendcmd("CLNT second")
        rows = until(lambda: len(found := store_of.sessions(account.username)) == 2 and found)
        (row,) = [row for row in rows if row.client == "second"]
        with database.transaction() as session:
            end_session(session, row.owner, row.id, now=utc_now())
        with pytest.raises(ftplib.error_temp, match="421 The session was ended by the account's owner or an admin"):
            second.voidresp()
        assert first.pwd() == "/"
        until(lambda: len(store_of.sessions(account.username)) == 1)

    def test_those_of_a_process_that_died_are_not_shown(
        self, running: Any, store_of: Store, connect: Any, until: Any
    ) -> None:
        account = running.account()
        connect(running, account)
        until(lambda: store_of.sessions(account.username))
        running.processes[0].kill()
        running.processes[0].wait()
        until(lambda: not store_of.sessions(account.username), "nobody to be shown")


class TestTransfers:
    def test_each_is_written_down_with_its_figures(
        self, running: Any, store_of: Store, connect: Any, put: Any, fetch: Any, until: Any
    ) -> None:
        account = running.account()
        client = connect(running, account, tls=True)
        client.mkd("sub")
        client.cwd("sub")
        put(client, "grüße.txt", b"12345")
        client.storbinary("APPE grüße.txt", io.BytesIO(b"678"))
        assert fetch(client, "grüße.txt") == b"12345678"
        stored_as = client.storbinary("STOU", io.BytesIO(b"x"))
        assert stored_as
        client.retrlines("LIST", lambda _: None)
        found = until(lambda: len(rows := store_of.transfers(account.username)) == 4 and rows)
        assert [(row.direction, row.path, row.bytes, row.result, row.reason) for row in found[:3]] == [
            ("upload", "/sub/grüße.txt", 5, "completed", ""),
            ("append", "/sub/grüße.txt", 3, "completed", ""),
            ("download", "/sub/grüße.txt", 8, "completed", ""),
        ]
        assert found[3].path.startswith("/sub/ftpd.")
        assert (account.home / found[3].path.lstrip("/")).read_bytes() == b"x"
        for row in found:
            assert (row.owner, row.address, row.tls) == (account.username.partition("_")[0], "127.0.0.1", True)
            assert row.started_at <= row.ended_at <= utc_now()
            assert row.duration_ms >= 0
            assert len(row.session_id) == 32

    def test_failed_ones_say_why(
        self, running: Any, store_of: Store, connect: Any, put: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        client = connect(running, account)
        client.mkd("folder")
        with pytest.raises(ftplib.error_perm):
            put(client, "folder", b"x")
        with pytest.raises(ftplib.error_perm):
            client.retrbinary("RETR nothing", lambda _: None)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR aborted")
        data.sendall(b"half")
        until(lambda: any(path.stat().st_size == 4 for path in account.home.glob(".wsp-upload-*.tmp")))
        client.abort()
        data.close()
        client.voidresp()
        data = client.transfercmd("STOR cut")
        data.sendall(b"half")
        until(lambda: any(path.stat().st_size == 4 for path in account.home.glob(".wsp-upload-*.tmp")))
        with database.transaction() as session:
            toggle_account(session, None, account.username)
        with pytest.raises(ftplib.error_temp):
            client.voidresp()
        data.close()
        found = until(lambda: len(rows := store_of.transfers(account.username)) == 4 and rows)
        assert [(row.direction, row.path, row.bytes, row.result, row.reason) for row in found] == [
            ("upload", "/folder", 0, "failed", "Is a directory."),
            ("download", "/nothing", 0, "failed", "No such file or directory."),
            ("upload", "/aborted", 4, "failed", "The client aborted the transfer."),
            ("upload", "/cut", 4, "failed", "The account is disabled."),
        ]

    def test_a_read_only_account_and_a_missing_connection_say_so(
        self, running: Any, store_of: Store, connect: Any, until: Any
    ) -> None:
        account = running.account(read_only=True)
        client = connect(running, account)
        (account.home / "f").write_bytes(b"x")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.storbinary("STOR new", io.BytesIO(b"x"))
        client.voidcmd("TYPE I")
        client.makepasv()
        assert client.sendcmd("RETR f").startswith("150")
        client.quit()
        found = until(lambda: len(rows := store_of.transfers(account.username)) == 2 and rows)
        assert [(row.path, row.reason) for row in found] == [
            ("/new", "Not enough privileges."),
            ("/f", "No data connection was made."),
        ]

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_nothing_is_kept_when_the_setting_says_so(
        self, new_server: Any, connect: Any, put: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_KEEP_TRANSFERS_DAYS="0").start()
        account, written = server.account(), Store(server)
        client = connect(server, account)
        put(client, "f", b"x")
        client.quit()
        until(lambda: written.last(account.username))
        assert written.transfers(account.username) == []


class TestLastSession:
    def test_it_answers_why_it_failed(
        self, running: Any, store_of: Store, connect: Any, put: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        client = connect(running, account)
        client.sendcmd("CLNT deployer")
        put(client, "a", bytes(2000))
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR app.zip")
        data.sendall(bytes(3 * 2**20))
        until(lambda: any(p.stat().st_size == 3 * 2**20 for p in account.home.glob(".wsp-upload-*.tmp")))
        with database.transaction() as session:
            toggle_account(session, None, account.username)
        with pytest.raises(ftplib.error_temp):
            client.voidresp()
        data.close()
        row = until(lambda: store_of.last(account.username))
        assert row.sentence == "The upload of /app.zip failed after 3.0 MB: the account is disabled."
        assert (row.ok, row.uploads, row.downloads, row.failures) == (False, 1, 0, 1)
        assert (row.bytes_uploaded, row.client, row.address) == (2000 + 3 * 2**20, "deployer", "127.0.0.1")

    def test_one_that_went_well_says_so(
        self, running: Any, store_of: Store, connect: Any, put: Any, fetch: Any, until: Any
    ) -> None:
        account = running.account()
        client = connect(running, account)
        with pytest.raises(ftplib.error_perm):
            fetch(client, "f")
        put(client, "f", bytes(1024))
        fetch(client, "f")  # which makes good what failed before
        client.quit()
        row = until(lambda: store_of.last(account.username))
        assert row.sentence == "The session went well: 1 upload (1.0 KB) and 1 download (1.0 KB)."
        assert (row.ok, row.failures) == (True, 1)

    def test_refused_logins_count_with_the_true_reason(
        self, running: Any, store_of: Store, connect: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        for change, password, sentence in (
            ({}, "wrong", "The login was refused. The password is wrong."),
            ({"allowed_ips": ["203.0.113.0/24"]}, account.password, "127.0.0.1 is not one that the account allows."),
            ({"allowed_ips": [], "enabled": False}, account.password, "The account is disabled."),
        ):
            running.change(account, **change)
            with pytest.raises(ftplib.error_perm, match=r"530 Login incorrect\."):
                connect(running).login(account.username, password)
            until(
                lambda sentence=sentence: (row := store_of.last(account.username)) and sentence in row.sentence,
                sentence,
            )
        with database.reading() as session:
            row = last_session(session, account.username.partition("_")[0], account.username, now=utc_now())
        assert isinstance(row, LastSession)
        assert not row.ok

    def test_a_live_one_is_still_going_on(
        self, running: Any, store_of: Store, connect: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        connect(running, account).quit()
        until(lambda: store_of.last(account.username))
        connect(running, account)
        until(lambda: store_of.sessions(account.username))
        with database.reading() as session:
            row = last_session(session, None, account.username, now=utc_now())
        assert isinstance(row, SessionRow)


class TestWebhooks:
    def test_uploads_and_refused_logins_are_told(
        self, running: Any, connect: Any, put: Any, until: Any, database: Any
    ) -> None:
        account = running.account()
        now = utc_now()
        with database.transaction() as session:
            session.add(
                Webhook(
                    id="w",
                    owner=account.username.partition("_")[0],
                    url="https://example.com/",
                    events=["*"],
                    secret="s",
                    created_at=now,
                    updated_at=now,
                )
            )
        client = connect(running, account)
        put(client, "f", b"12345")
        client.mkd("d")
        with pytest.raises(ftplib.error_perm):
            put(client, "d", b"x")
        with pytest.raises(ftplib.error_perm):
            connect(running).login(account.username, "wrong")

        def told() -> dict[str, Any]:
            with database.reading() as session:
                rows = session.execute(select(Delivery.event, Delivery.payload))
                return {row.event: json.loads(row.payload)["data"] for row in rows}

        found = until(lambda: len(told()) == 3 and told())
        assert found["upload.completed"]["path"] == "/f"
        assert found["upload.completed"]["bytes"] == 5
        assert found["upload.failed"]["reason"] == "Is a directory."
        assert found["login.failed"] == {
            "username": account.username,
            "address": "127.0.0.1",
            "reason": "The password is wrong.",
            "attempts": 1,
        }


class TestStoreAway:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_nothing_is_lost_and_nobody_waits(
        self, running: Any, store_of: Store, connect: Any, put: Any, until: Any, store: str
    ) -> None:
        account = running.account()
        client = connect(running, account)
        until(lambda: store_of.sessions(account.username))
        lock = sqlite3.connect(running.settings.database.removeprefix("sqlite:///"), isolation_level=None)
        lock.execute("ALTER TABLE ftp_transfers RENAME TO away")
        put(client, "f", b"x")
        until(lambda: "cannot be recorded, and wait" in running.log)
        put(client, "g", b"x")
        lock.execute("ALTER TABLE away RENAME TO ftp_transfers")
        lock.close()
        until(lambda: [row.path for row in store_of.transfers(account.username)] == ["/f", "/g"])
        until(lambda: "are recorded again" in running.log)
        assert running.log.count("cannot be recorded") == 1

    def test_what_is_left_is_written_at_the_end(self, running: Any, store_of: Store, connect: Any, put: Any) -> None:
        account = running.account()
        put(connect(running, account), "f", b"x")
        running.processes[0].send_signal(signal.SIGTERM)
        assert running.processes[0].wait(60) == 0
        assert [row.path for row in store_of.transfers(account.username)] == ["/f"]
        last = store_of.last(account.username)
        assert last is not None
        assert last.sentence == (
            'The session went well: 1 upload (1 byte). The server ended the session: "The server is shutting down."'
        )


class TestXferlog:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_each_transfer_is_a_line_and_a_rotation_is_followed(
        self, new_server: Any, connect: Any, put: Any, fetch: Any, until: Any, tmp_path: Any, store: str
    ) -> None:
        log = tmp_path / "xferlog"
        server = new_server(WSP_FTP_XFERLOG=str(log)).start()
        account = server.account()
        client = connect(server, account)
        put(client, "a file", b"12345")
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        fields = log.read_text().split()
        assert fields[5:] == [
            "1",
            "127.0.0.1",
            "5",
            "/a_file",
            "b",
            "_",
            "i",
            "r",
            account.username,
            "ftp",
            "0",
            "*",
            "c",
        ]
        log.rename(tmp_path / "xferlog.1")
        assert fetch(client, "a file") == b"12345"
        until(lambda: log.exists() and " o r " in log.read_text())
        assert (tmp_path / "xferlog.1").read_text().count("\n") == 1

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_file_that_cannot_be_written_is_one_line_at_the_start(self, new_server: Any, store: str) -> None:
        server = new_server(WSP_FTP_XFERLOG="/proc/nope/xferlog")
        assert server.spawn().wait(60) == 1
        (line,) = server.log.splitlines()
        assert line.startswith("WSP_FTP_XFERLOG: cannot write /proc/nope/xferlog (No such file or directory); ")


class TestPasswords:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_none_is_logged_whatever_a_client_does(
        self, new_server: Any, raw: Any, until: Any, database: Any, store: str
    ) -> None:
        server = new_server(WSP_LOG_LEVEL="debug", WSP_LOG_FORMAT="json").start()
        account = server.account()
        with database.transaction() as session:
            session.execute(delete(SessionRow))
        secret = account.password.encode()
        client = raw(server)
        for line in (
            b"USER " + secret,
            b"PASS " + secret,
            b"USER PASS " + secret,
            b"PASS " + secret,
            b"USER " + account.username.encode(),
            b"pass " + secret,
            b"PASS " + secret,
            b"ACCT " + secret,
            secret,
            b"SITE " + secret,
            b"STOR",
            b"QUIT",
        ):
            client.ask(line)
        until(lambda: "disconnect" in server.log)
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert {"login", "login_failed", "disconnect"} <= {line.get("event") for line in lines}
        (login,) = [line for line in lines if line.get("event") == "login"]
        assert (login["account"], login["address"], login["tls"]) == (account.username, "127.0.0.1", False)
        for form in ("S3cure", "pass\\u2022", "\u2022"):
            assert form not in server.log
