"""`wsp serve`: being stopped, being killed, and a process of it being killed."""

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.e2e

Server = Any  # the class of tests/e2e/conftest.py, which tests cannot import
StartServer = Callable[..., Server]
Wait = Callable[..., Any]


def lives(pid: int) -> bool:
    """Does it run? One that has ended and waits for whoever adopted it to notice does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def only(pids: set[int]) -> int:
    (pid,) = pids
    return pid


class TestAKilledProcess:
    @pytest.mark.parametrize("service", ["api", "ftp", "cron"])
    def test_is_back(self, service: str, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server()
        victim = only(server.pids(service))
        others = server.pids() - {victim}
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not lives(victim) and len(server.pids(service)) == 1, f"{service} is started again")
        wait_until(lambda: server.greets() and server.answers("/readyz"), "everything serves again")
        assert only(server.pids(service)) != victim
        assert others <= server.pids()
        assert server.call("GET", "/ftp/status")[1]["running"] is True

    def test_is_back_every_time(self, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server()
        for _ in range(4):
            victim = only(server.pids("ftp"))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone=victim: server.pids("ftp") - {gone} and server.greets(), "FTP serves again")

    def test_takes_nothing_else_with_it(self, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server(WSP_FTP_WORKERS="2")
        assert len(server.pids("ftp")) == 2
        victim = min(server.pids("ftp"))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not lives(victim) and len(server.pids("ftp")) == 2, "the worker is started again")
        assert len(server.pids()) == 4


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_everything(self, number: signal.Signals, start_server: StartServer) -> None:
        server = start_server()
        children = server.pids()
        assert len(children) == 3
        assert server.stop(number) == 0
        assert not any(lives(pid) for pid in children)
        assert "Traceback" not in server.log()
        assert not server.answers()

    def test_twice_does_no_harm(self, start_server: StartServer) -> None:
        server = start_server()
        children = server.pids()
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        assert not any(lives(pid) for pid in children)
        assert "Traceback" not in server.log()

    def test_before_it_is_up(self, launch_server: StartServer, wait_until: Wait) -> None:
        server = launch_server()
        children = wait_until(server.pids, "a first child")
        assert server.stop() == 0
        assert not any(lives(pid) for pid in children)

    def test_with_clients_that_do_not_leave(self, start_server: StartServer) -> None:
        server = start_server()
        with (
            socket.create_connection(("127.0.0.1", server.ftp_port), timeout=20) as ftp,
            socket.create_connection(("127.0.0.1", server.http_port)) as half_a_request,
        ):
            assert ftp.recv(3) == b"220"
            half_a_request.sendall(b"POST /api/v1/ftp/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert server.stop() == 0

    def test_leaves_no_orphan_when_it_is_killed(self, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server()
        children = server.pids()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(lives(pid) for pid in children), "the children end")

    def test_starts_at_once_after_it_was_killed(self, start_server: StartServer) -> None:
        first = start_server()
        first.process.kill()
        first.process.wait()
        second = start_server()
        assert second.call("GET", "/ftp/")[0] == 200
        assert second.stop() == 0
