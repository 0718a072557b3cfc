"""`kill -9` of each process of `wsp serve` in the middle of an upload."""

import ftplib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

PASSWORD = "S3cure•pass"
HALF = os.urandom(2_000_000)


class Upload:
    """Half of a file was sent, and has arrived."""

    def __init__(self, server: Any, home: Path, wait_until: Callable[..., Any]) -> None:
        self.target = home / "file"
        self.client = ftplib.FTP()
        self.client.connect("127.0.0.1", server.ftp_port, timeout=20)
        self.client.login("admin_deploy", PASSWORD)
        self.client.voidcmd("TYPE I")
        self.data = self.client.transfercmd("STOR file")
        self.data.sendall(HALF)
        wait_until(lambda: any(path.stat().st_size == len(HALF) for path in home.glob(".wsp-upload-*.tmp")), "a half")

    def finish(self) -> None:
        """Send the rest; fails unless it is stored."""
        self.data.sendall(HALF)
        self.data.close()
        assert self.client.voidresp().startswith("226")
        assert self.target.read_bytes() == HALF * 2
        self.client.close()

    def ends_badly(self) -> None:
        """Fails if the server still takes the rest."""
        with pytest.raises((OSError, EOFError)):
            self.finish()
        self.client.close()
        self.data.close()


class TestKilled:
    def test_each_process_in_turn(self, start_server: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
        server = start_server()
        assert server.call("POST", "/ftp/", {"username": "deploy", "password": PASSWORD})[0] == 201
        home = server.files / "home" / "admin"

        for service in ("api", "cron"):
            upload = Upload(server, home, wait_until)
            (victim,) = server.pids(service)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone=victim, kind=service: server.pids(kind) - {gone}, "it is back")
            upload.finish()

        upload.target.write_bytes(b"old")
        upload = Upload(server, home, wait_until)
        (victim,) = server.pids("ftp")
        os.kill(victim, signal.SIGKILL)
        upload.ends_badly()
        assert upload.target.read_bytes() == b"old"
        wait_until(lambda: server.pids("ftp") - {victim} and server.greets(), "FTP is back")
        Upload(server, home, wait_until).finish()

        # The one that started them all: they notice, and let the upload come to its end.
        upload = Upload(server, home, wait_until)
        server.process.kill()
        server.process.wait()
        upload.finish()
        second = start_server()
        Upload(second, second.files / "home" / "admin", wait_until).finish()
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", second.ftp_port, timeout=20)
            client.login("admin_deploy", PASSWORD)
            assert client.nlst() == ["file"]
        assert "Traceback" not in server.log() + second.log()
