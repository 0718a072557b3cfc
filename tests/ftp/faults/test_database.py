"""A database that is locked, gone, or does not answer: sessions go on, logins get 421, and all of it passes."""

import ftplib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

LOCKED_SECONDS = 10.0
GONE_SECONDS = 30.0
SILENT_SECONDS = 60.0
PAUSE_SECONDS = 0.1  # between one attempt and the next


def try_login(connect: Any, server: Any, account: Any) -> str:
    """What a login attempt is answered: 230, or the code of the refusal."""
    client = connect(server)
    try:
        return str(client.login(account.username, account.password))[:3]
    except ftplib.Error as error:
        return str(error)[:3]
    finally:
        client.close()


class Upload:
    """A transfer that is going on all the while."""

    def __init__(self, client: ftplib.FTP) -> None:
        self.client = client
        client.voidcmd("TYPE I")
        self.data = client.transfercmd("STOR during")
        self.data.sendall(b"first half, ")

    def finish(self, account: Any) -> None:
        self.data.sendall(b"second half")
        self.data.close()
        assert self.client.voidresp().startswith("226")
        assert (account.home / "during").read_bytes() == b"first half, second half"


class TestLocked:
    @pytest.mark.slow
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
    def test_for_ten_seconds(
        self, new_server: Callable[..., Any], connect: Any, put: Any, lock: str, store: str
    ) -> None:
        server = new_server().start()
        account = server.account()
        session = connect(server, account)
        upload = Upload(connect(server, account))
        locker = sqlite3.connect(server.settings.database.removeprefix("sqlite:///"), isolation_level=None)
        locker.execute(lock)
        until = time.monotonic() + LOCKED_SECONDS
        answers = set()
        while time.monotonic() < until:
            began = time.monotonic()
            session.voidcmd("NOOP")
            assert time.monotonic() - began < 1.0
            answers.add(try_login(connect, server, account))
            time.sleep(PAUSE_SECONDS)
        put(session, "meanwhile", b"x")
        upload.finish(account)
        locker.close()
        # A reader is not kept out by a writer: such logins may well succeed.
        assert answers <= {"230", "421"}
        assert try_login(connect, server, account) == "230"
        assert "Traceback" not in server.log


class TestGone:
    @pytest.fixture
    def server(self, own_postgres: Any, new_server: Callable[..., Any], store: str) -> Any:
        """A server on a PostgreSQL that can be stopped."""
        url = own_postgres.url("migrated")
        server = new_server(WSP_DATABASE_URL=url)
        server.database = type(server.database)(url)
        server.start()
        yield server
        server.database.close()

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # of what is not used here
    @pytest.mark.parametrize("seconds", [3.0, pytest.param(GONE_SECONDS, marks=pytest.mark.slow)])
    def test_and_back(
        self, server: Any, own_postgres: Any, connect: Any, put: Any, until: Any, seconds: float, store: str
    ) -> None:
        account = server.account()
        session = connect(server, account)
        upload = Upload(connect(server, account))
        own_postgres.stop()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            began = time.monotonic()
            assert try_login(connect, server, account) == "421"
            session.voidcmd("NOOP")
            assert time.monotonic() - began < 5.0
            time.sleep(PAUSE_SECONDS)
        put(session, "meanwhile", b"x")
        upload.finish(account)
        own_postgres.start()
        until(lambda: try_login(connect, server, account) == "230", "a login")
        assert server.processes[0].poll() is None
        assert "Traceback" not in server.log

    @pytest.mark.slow
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_silent(self, server: Any, own_postgres: Any, connect: Any, until: Any, store: str) -> None:
        account = server.account()
        session = connect(server, account)
        postmaster = int((own_postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
        stopped = [postmaster, *children(postmaster)]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)

        def attempt() -> str:
            client = connect(server)
            client.sock.settimeout(SILENT_SECONDS)
            with pytest.raises(ftplib.error_temp) as caught:
                client.login(account.username, account.password)
            return str(caught.value)[:3]

        try:
            answers: list[str] = []
            threads = [threading.Thread(target=lambda: answers.append(attempt())) for _ in range(4)]
            for thread in threads:
                thread.start()
            session.voidcmd("NOOP")
            for thread in threads:
                thread.join()
            assert answers == ["421"] * 4
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        until(lambda: try_login(connect, server, account) == "230", "a login")
        assert "Traceback" not in server.log


def children(process: int) -> list[int]:
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(child) for child in file.read().split()]
