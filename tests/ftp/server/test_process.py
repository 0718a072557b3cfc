"""The process: its port, its siblings, its end."""

import ftplib
import io
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from wsp.database import utc_now
from wsp.ftp.records import Transfer
from wsp.ftp.service import toggle_account
from wsp.ftp.sessions import list_sessions
from wsp.heartbeat import alive
from wsp.paging import Page

pytestmark = pytest.mark.e2e

STOP_SECONDS = 8.0


class TestStart:
    def test_a_port_in_use_is_one_line(self, new_server: Callable[..., Any], until: Any) -> None:
        server = new_server()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", server.port))
            taken.listen()
            process = server.spawn()
            assert process.wait(20) == 1
        assert f"the FTP port {server.port} on 127.0.0.1 is in use" in server.log
        assert "Traceback" not in server.log

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_files_root_that_cannot_be_made_is_one_line(self, new_server: Callable[..., Any], store: str) -> None:
        server = new_server(WSP_FILES_ROOT="/proc/nope")
        assert server.spawn().wait(20) == 1
        (line,) = server.log.splitlines()
        assert line.startswith("WSP_FILES_ROOT: cannot make /proc/nope (No such file or directory); ")
        assert line.endswith("a folder that can be written is allowed")

    def test_another_server_on_the_same_port_is_refused(self, new_server: Callable[..., Any], tmp_path: Any) -> None:
        first = new_server().start()
        second = new_server(WSP_DATA_DIR=str(tmp_path / "elsewhere"))
        assert second.spawn().wait(20) == 1
        assert "is in use" in second.log
        assert first.processes[0].poll() is None

    def test_two_workers_share_a_port(self, new_server: Callable[..., Any], connect: Any, until: Any) -> None:
        server = new_server().start().start()
        account = server.account()

        def both_served() -> bool:
            connect(server, account)
            return all("login: user" in path.read_text() for path in server.folder.glob("ftp-*.log"))

        until(both_served, seconds=60)
        server.processes[0].kill()
        server.processes[0].wait()
        assert connect(server, account).pwd() == "/"
        assert server.start().processes[2].poll() is None

    def test_it_reports_itself_while_it_serves(self, new_server: Callable[..., Any], database: Any) -> None:
        server = new_server().start()
        with database.reading() as session:
            assert alive(session, "ftp")
        server.stop()
        with database.reading() as session:
            assert not alive(session, "ftp")


class TestStop:
    def test_the_idle_hear_421_and_a_transfer_ends_well(
        self, new_server: Callable[..., Any], connect: Any, until: Any
    ) -> None:
        server = new_server().start()
        account = server.account()
        idle, busy = connect(server, account), connect(server, account)
        busy.voidcmd("TYPE I")
        data = busy.transfercmd("STOR f")
        data.sendall(b"first ")
        busy.sock.sendall(b"NOOP\r\n")
        busy.voidresp()

        process = server.processes[0]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ftplib.error_temp, match="421"):
            idle.voidresp()
        data.sendall(b"second")
        data.close()
        assert busy.voidresp().startswith("226")
        with pytest.raises(ftplib.error_temp, match="421"):
            busy.voidresp()
        assert process.wait(STOP_SECONDS) == 0
        assert (account.home / "f").read_bytes() == b"first second"
        assert "Traceback" not in server.log

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_transfer_that_does_not_end_is_cut_at_the_deadline(
        self, new_server: Callable[..., Any], connect: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_DRAIN_SECONDS="1").start()
        account = server.account()
        client = connect(server, account)
        (account.home / "f").write_bytes(b"old")
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"new")
        began = time.monotonic()
        server.processes[0].send_signal(signal.SIGTERM)
        assert server.processes[0].wait(STOP_SECONDS * 2) == 0
        assert 1.0 <= time.monotonic() - began < STOP_SECONDS
        with pytest.raises(ftplib.error_temp, match="421 The server is shutting down, and could not wait"):
            client.voidresp()
        data.close()
        assert (account.home / "f").read_bytes() == b"old"
        with server.database.reading() as session:
            transfer = session.scalars(select(Transfer)).one()
        assert transfer.reason == "The server is shutting down, and could not wait for the transfer any longer."

    def test_a_session_that_is_waited_for_is_shown_and_can_still_be_ended(
        self, new_server: Callable[..., Any], connect: Any, until: Any, database: Any
    ) -> None:
        server = new_server(WSP_FTP_DRAIN_SECONDS="60").start()
        account = server.account()
        client = connect(server, account)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"new")
        server.processes[0].send_signal(signal.SIGTERM)

        def shown() -> list[Any]:
            with database.reading() as session:
                return list_sessions(session, None, Page(), now=utc_now())[0]

        def stopping() -> bool:
            with database.reading() as session:
                return not alive(session, "ftp")

        until(stopping)
        until(lambda: [row for row in shown() if row.transferred == 3])
        with database.transaction() as session:
            toggle_account(session, None, account.username)
        with pytest.raises(ftplib.error_temp, match=r"421 The account is disabled\."):
            client.voidresp()
        data.close()
        assert server.processes[0].wait(STOP_SECONDS) == 0

    def test_a_hangup_drops_nobody(self, new_server: Callable[..., Any], connect: Any, until: Any) -> None:
        server = new_server().start()
        account = server.account()
        client = connect(server, account)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"first ")
        server.processes[0].send_signal(signal.SIGHUP)
        assert client.sendcmd("NOOP").startswith("200")
        data.sendall(b"second")
        data.close()
        assert client.voidresp().startswith("226")
        assert (account.home / "f").read_bytes() == b"first second"

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_locked_database_does_not_hold_up_the_end(
        self, new_server: Callable[..., Any], connect: Any, store: str
    ) -> None:
        server = new_server().start()
        lock = sqlite3.connect(server.settings.database.removeprefix("sqlite:///"), isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        server.processes[0].send_signal(signal.SIGTERM)
        assert server.processes[0].wait(STOP_SECONDS * 2) == 0
        assert time.monotonic() - began < STOP_SECONDS
        lock.close()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_uploads_by_many_clients_at_once_all_arrive(
        self, new_server: Callable[..., Any], connect: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account()
        clients = [connect(server, account, tls=number % 2 == 0) for number in range(8)]
        for round_number in range(5):
            for number, client in enumerate(clients):
                client.storbinary(f"STOR f{number}-{round_number}", io.BytesIO(bytes([number]) * 10_000))
        assert len(clients[0].nlst()) == 40
