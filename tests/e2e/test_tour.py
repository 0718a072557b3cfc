"""The README's five-minute tour: every command, as written, against a fresh server (only the ports differ)."""

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


def tour() -> str:
    """The commands of the tour's code blocks, one after the other."""
    section = README.read_text().split("## A five-minute tour")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


@pytest.mark.timeout(TOUR_SECONDS + 60)
def test_every_command_of_the_tour_works(start_server: Callable[..., Any], tmp_path: Path) -> None:
    missing = [tool for tool in ("curl", "lftp") if shutil.which(tool) is None]
    if missing:
        assert "CI" not in os.environ, f"not installed: {missing}"
        pytest.skip(f"not installed: {missing}")
    place = tmp_path / "checkout"
    place.mkdir()
    shutil.copy(README, place)
    server = start_server(WSP_DATA_DIR=str(place / "wsp-data"))
    (place / ".curlrc").write_text("fail\nsilent\nshow-error\nnoproxy = *\n")  # so that a refusal is a failure
    commands = tour().replace("3082", str(server.http_port)).replace("2121", str(server.ftp_port))
    result = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", commands],
        cwd=place,
        env={**os.environ, "CURL_HOME": str(place), "HOME": str(place), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOUR_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    said = result.stdout
    assert '"username":"admin_deploy"' in said
    assert said.count("README.md") >= 3  # listed by lftp, listed by ls, counted by the job
    assert '"status":"succeeded"' in said
    assert "Cron job deleted successfully" in said
    assert "FTP account deleted successfully" in said
    assert (place / "wsp-data" / "files" / "home" / "admin" / "README.md").read_bytes() == README.read_bytes()
