"""The journey of a newcomer: from an empty folder to files served and a command run, with the clients people use."""

import ftplib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

PASSWORD = "S3cure•pass"


def run_lftp(server: Any, user: str, script: str, folder: Path) -> str:
    """Run an lftp script as a user. Fails the test when lftp does."""
    if shutil.which("lftp") is None:
        if "CI" in os.environ:
            pytest.fail("lftp is not installed")
        pytest.skip("lftp is not installed")
    settings = "set cmd:fail-exit true; set net:max-retries 1; set net:timeout 20; set ssl:verify-certificate false; "
    done = subprocess.run(
        ["lftp", "-u", f"{user},{PASSWORD}", "-p", str(server.ftp_port), "127.0.0.1", "-e", f"{settings}{script}; bye"],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestJourney:
    def test_from_an_empty_folder_to_an_empty_folder(
        self, start_server: Callable[..., Any], wait_until: Callable[..., Any], tmp_path: Path
    ) -> None:
        server = start_server()
        content = os.urandom(3_000_000)
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "grüße 1.bin").write_bytes(content)

        status, account = server.call("POST", "/ftp/", {"username": "deploy", "password": PASSWORD})
        assert (status, account["username"], account["home_dir"]) == (201, "admin_deploy", "/home/admin")

        run_lftp(server, "admin_deploy", "mirror -R site www", tmp_path)
        assert (server.files / "home/admin/www/grüße 1.bin").read_bytes() == content

        fetched = subprocess.run(
            [
                *("curl", "-sS", "--fail", "-u", f"admin_deploy:{PASSWORD}"),
                f"ftp://127.0.0.1:{server.ftp_port}/www/gr%C3%BC%C3%9Fe%201.bin",
            ],
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        assert fetched == content

        def usage() -> list[Any]:
            shown = server.call("GET", "/ftp/admin_deploy")[1]
            return [shown["used_bytes"], shown["file_count"]]

        wait_until(lambda: usage() == [len(content), 1], "the usage")

        got: list[bytes] = []
        with ftplib.FTP(timeout=30) as client:
            client.connect("127.0.0.1", server.ftp_port)
            client.login("admin_deploy", PASSWORD)
            client.cwd("www")
            assert [name for name, _ in client.mlsd() if name not in (".", "..")] == ["grüße 1.bin"]
            client.retrbinary("RETR grüße 1.bin", got.append)
        assert b"".join(got) == content

        # The files that came over FTP are what the job works on: both tools share the owner's home.
        command = "cat 'www/grüße 1.bin' | wc -c; echo oops >&2; pwd"
        status, job = server.call("POST", "/cronjobs/", {"name": "count", "command": command, "cron_expr": "* * * * *"})
        assert (status, job["next_run_at"]) == (201, None)
        path = f"/cronjobs/{job['id']}"
        runs = wait_until(
            lambda: [run for run in server.call("GET", f"{path}/logs")[1] if run["finished_at"]],
            "the job ran within the minute",
            75,
        )
        assert (runs[0]["status"], runs[0]["ok"], runs[0]["exit_code"]) == ("succeeded", True, 0)
        assert runs[0]["scheduled_for"].endswith(":00+07:00")
        # Each stream in its order; between the two, that of their arrival.
        lines = runs[0]["output"].splitlines()
        assert [line for line in lines if line != "oops"] == ["3000000", f"{server.files}/home/admin"]
        assert len(lines) == 3
        job = server.call("GET", path)[1]
        assert (job["last_run_at"], job["last_run_ok"]) == (runs[0]["started_at"], True)
        assert job["next_run_at"] > runs[0]["scheduled_for"]

        status, job = server.call("PUT", path, {"enabled": False})
        assert (status, job["enabled"], job["next_run_at"]) == (200, False, None)

        assert server.call("DELETE", path) == (200, {"message": "Cron job deleted successfully"})
        assert server.call("DELETE", "/ftp/admin_deploy") == (200, {"message": "FTP account deleted successfully"})
        assert server.call("GET", "/cronjobs/") == (200, [])
        assert server.call("GET", "/ftp/") == (200, {"accounts": [], "total": 0})
        with ftplib.FTP(timeout=30) as client:
            client.connect("127.0.0.1", server.ftp_port)
            with pytest.raises(ftplib.error_perm, match="530"):
                client.login("admin_deploy", PASSWORD)
        assert (server.files / "home/admin/www/grüße 1.bin").read_bytes() == content, "the files stay"
        assert server.stop() == 0
