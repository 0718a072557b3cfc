"""The README: every command of it, as written, against a fresh server (only the ports differ)."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

README = Path(__file__).parents[2] / "README.md"
TOUR_SECONDS = 180  # it waits for a minute to pass


def blocks(heading: str) -> list[str]:
    """The code blocks of a section of the README, without their output."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the README in it, and room for the data of a server."""
    missing = [tool for tool in ("curl", "lftp") if shutil.which(tool) is None]
    if missing:
        assert "CI" not in os.environ, f"not installed: {missing}"
        pytest.skip(f"not installed: {missing}")
    place = tmp_path / "checkout"
    place.mkdir()
    shutil.copy(README, place)
    (place / ".curlrc").write_text("fail\nsilent\nshow-error\nnoproxy = *\n")  # so that a refusal is a failure
    return place


def run(commands: list[str], place: Path, start_server: Callable[..., Any]) -> str:
    """Run commands one after the other, on a server of their own. Returns what they said."""
    server = start_server(WSP_DATA_DIR=str(place / "wsp-data"))
    script = "\n".join(commands).replace("3082", str(server.http_port)).replace("2121", str(server.ftp_port))
    result = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", script],
        cwd=place,
        env={**os.environ, "CURL_HOME": str(place), "HOME": str(place), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOUR_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.timeout(TOUR_SECONDS + 60)
def test_every_command_of_the_tour_works(start_server: Callable[..., Any], place: Path) -> None:
    said = run(blocks("A five-minute tour"), place, start_server)
    assert '"username":"admin_deploy"' in said
    assert said.count("README.md") >= 3  # listed by lftp, listed by ls, counted by the job
    assert '"status":"succeeded"' in said
    assert "Cron job deleted successfully" in said
    assert "FTP account deleted successfully" in said
    assert (place / "wsp-data" / "files" / "home" / "admin" / "README.md").read_bytes() == README.read_bytes()


@pytest.mark.timeout(TOUR_SECONDS + 60)
def test_every_command_for_sites_works(start_server: Callable[..., Any], place: Path) -> None:
    said = run([blocks("A five-minute tour")[0], *blocks("FTP for sites")], place, start_server)
    assert '"quota_mb":500' in said
    assert "250 / is published." in said
    assert '"message":"Rolled back to ' in said
    assert '"sentence":"The session went well: ' in said
    assert '"secret":"whsec_' in said
    assert list((place / "wsp-data" / "files" / "home" / "admin" / "public_html").glob("*.html")) == []
