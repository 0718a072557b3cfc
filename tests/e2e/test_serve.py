"""`wsp serve`: first and later starts, being killed, being stopped, and what stops it from starting."""

import ftplib
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
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


def greets(server: Server) -> bool:
    try:
        with ftplib.FTP() as ftp:
            ftp.connect("127.0.0.1", server.ftp_port, timeout=5)
            return ftp.getwelcome().startswith("220")
    except (OSError, EOFError, ftplib.Error):
        return False


def is_ready(server: Server) -> bool:
    return bool(server.answers("/readyz"))


def assert_refused(server: Server, *words: str) -> None:
    """It ended by itself with 1 and said so in one line."""
    assert server.process.wait(timeout=30) == 1
    said = [line for line in server.log().splitlines() if line.startswith("wsp: ")]
    assert len(said) == 1, server.log()
    for word in words:
        assert word in said[0]
    assert "Traceback" not in server.log()
    assert "is running" not in server.out.read_text()


class TestFirstStart:
    def test_makes_a_working_server(self, start_server: StartServer) -> None:
        server = start_server()
        token_file = server.data_dir / "admin-token"
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert server.files.is_dir()
        assert server.call("GET", "/ftp/") == (200, {"accounts": [], "total": 0})
        assert server.call("GET", "/auth/me")[1]["username"] == "admin"
        assert greets(server)
        assert is_ready(server)

    def test_says_where_everything_is(self, start_server: StartServer) -> None:
        server = start_server()
        banner = server.out.read_text()
        for part in (
            f"{server.url}/api/v1",
            f"{server.url}/docs",
            f"ftp://127.0.0.1:{server.ftp_port}",
            str(server.files),
            str(server.data_dir / "admin-token"),
            "WSP_HTTP_HOST=0.0.0.0 WSP_FTP_HOST=0.0.0.0",
        ):
            assert part in banner
        assert "\x1b" not in banner
        assert max(map(len, banner.splitlines())) < 240

    def test_the_line_to_try_works_as_pasted(self, start_server: StartServer) -> None:
        server = start_server()
        (line,) = [line for line in server.out.read_text().splitlines() if line.startswith("  Try ")]
        command = line.removeprefix("  Try").strip()
        assert server.token in command
        answer = subprocess.run(
            ["sh", "-c", command.replace("curl", "curl -sS --noproxy '*'", 1)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout == '{"accounts":[],"total":0}'

    def test_shows_the_key_once(self, start_server: StartServer) -> None:
        first = start_server()
        token = first.token
        assert first.log().count(token) == 2  # the key, and the line to try
        assert first.stop() == 0
        second = start_server()
        assert token not in second.log()
        assert str(second.data_dir / "admin-token") in second.out.read_text()
        assert second.token == token
        assert second.call("GET", "/ftp/")[0] == 200

    def test_makes_no_second_key_when_the_file_is_gone(self, start_server: StartServer) -> None:
        first = start_server()
        first.stop()
        (first.data_dir / "admin-token").unlink()
        second = start_server()
        assert "wsp token create admin" in second.out.read_text()
        assert not (second.data_dir / "admin-token").exists()
        made = second.cli("token", "create", "admin")
        assert second.call("GET", "/ftp/", token=made.stdout.strip())[0] == 200


class TestAKilledProcess:
    @pytest.mark.parametrize("service", ["api", "ftp", "cron"])
    def test_is_back(self, service: str, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server()
        victim = only(server.pids(service))
        others = server.pids() - {victim}
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not lives(victim) and len(server.pids(service)) == 1, f"{service} is started again")
        wait_until(lambda: greets(server) and is_ready(server), "everything serves again")
        assert only(server.pids(service)) != victim
        assert others <= server.pids()
        assert server.call("GET", "/ftp/status")[1]["running"] is True

    def test_is_back_every_time(self, start_server: StartServer, wait_until: Wait) -> None:
        server = start_server()
        for _ in range(4):
            victim = only(server.pids("ftp"))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone=victim: server.pids("ftp") - {gone} and greets(server), "FTP serves again")

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


class TestWhatStopsAStart:
    @pytest.mark.parametrize("area", ["HTTP", "FTP"])
    def test_a_port_in_use(self, area: str, launch_server: StartServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            server = launch_server(**{f"WSP_{area}_PORT": str(port)})
            assert_refused(server, str(port), f"WSP_{area}_PORT")
        assert "started" not in server.log()

    def test_a_port_that_another_shares(self, launch_server: StartServer) -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert_refused(launch_server(WSP_FTP_PORT=str(port)), str(port), "WSP_FTP_PORT")

    def test_one_port_for_both(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_HTTP_PORT="4000", WSP_FTP_PORT="4000"), "WSP_HTTP_PORT", "WSP_FTP_PORT")

    def test_a_second_server_on_the_folder(
        self, start_server: StartServer, launch_server: StartServer, free_port: Callable[[], int]
    ) -> None:
        first = start_server()
        second = launch_server(WSP_HTTP_PORT=str(free_port()), WSP_FTP_PORT=str(free_port()))
        assert_refused(second, str(first.data_dir), str(first.process.pid), "WSP_DATA_DIR")
        assert first.answers()

    def test_a_wrong_setting(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_FTP_PASSIVE_PORTS="many"), "WSP_FTP_PASSIVE_PORTS", "50000-50999")

    def test_an_address_of_another_machine(self, launch_server: StartServer) -> None:
        assert_refused(launch_server(WSP_HTTP_HOST="192.0.2.1"), "WSP_HTTP_HOST", "192.0.2.1")

    def test_what_a_service_finds_wrong(self, launch_server: StartServer, tmp_path: Path) -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("no certificate")
        server = launch_server(WSP_FTP_TLS_CERT=str(broken), WSP_FTP_TLS_KEY=str(broken))
        assert_refused(server, "WSP_FTP_TLS_")
        assert "starting it again" not in server.log()

    def test_a_data_folder_that_is_a_file(self, launch_server: StartServer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert_refused(launch_server(WSP_DATA_DIR=str(tmp_path / "file")), "WSP_DATA_DIR", str(tmp_path / "file"))


class TestServicesAlone:
    def test_run_without_a_supervisor(
        self, empty_url: str, tmp_path: Path, free_port: Callable[[], int], wait_until: Wait
    ) -> None:
        port = free_port()
        environment = {
            **os.environ,
            "WSP_DATABASE_URL": empty_url,
            "WSP_DATA_DIR": str(tmp_path / "data"),
            "WSP_HTTP_PORT": str(port),
            "WSP_FTP_PORT": str(free_port()),
            "WSP_FTP_WORKERS": "2",
        }
        wsp = [sys.executable, "-m", "wsp"]
        subprocess.run([*wsp, "db", "upgrade"], env=environment, check=True, capture_output=True)

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        with (tmp_path / "log").open("wb") as log:
            services = [
                subprocess.Popen([*wsp, name], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                for name in ("api", "ftp", "cron")
            ]
        try:
            wait_until(ready, "all three services are up")
        finally:
            for service in services:
                service.terminate()
            codes = [service.wait(timeout=20) for service in services]
        assert codes == [0, 0, 0], (tmp_path / "log").read_text()
