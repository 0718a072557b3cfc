"""`wsp serve`: first and later starts, and its services without it."""

import os
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Server = Any  # the class of tests/e2e/conftest.py, which tests cannot import
StartServer = Callable[..., Server]
Wait = Callable[..., Any]


class TestFirstStart:
    def test_makes_a_working_server(self, start_server: StartServer) -> None:
        server = start_server()
        token_file = server.data_dir / "admin-token"
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert server.files.is_dir()
        assert server.call("GET", "/ftp/") == (200, {"accounts": [], "total": 0})
        assert server.call("GET", "/auth/me")[1]["username"] == "admin"
        assert server.greets()
        assert server.answers("/readyz")

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
