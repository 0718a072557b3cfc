"""What is shipped: the wheel, installed as the Dockerfile does it, and the Dockerfile itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTALL_SECONDS = 600


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction, with continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=INSTALL_SECONDS,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


class TestTheWheel:
    def test_holds_migrations_types_and_licence(self, wheel: Path) -> None:
        names = zipfile.ZipFile(wheel).namelist()
        assert "wsp/migrations/env.py" in names
        assert "wsp/migrations/versions/0001_initial.py" in names
        assert "wsp/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names)

    def test_holds_no_tests_and_no_leftovers(self, wheel: Path) -> None:
        names = zipfile.ZipFile(wheel).namelist()
        assert [name for name in names if "test" in name or name.endswith((".pyc", ".db"))] == []

    @pytest.mark.slow
    @pytest.mark.e2e
    @pytest.mark.timeout(INSTALL_SECONDS)
    def test_serves_with_no_checkout_near(self, wheel: Path, tmp_path: Path, free_port: Callable[[], int]) -> None:
        place = tmp_path / "venv"
        venv.create(place, with_pip=True)
        subprocess.run(
            [place / "bin" / "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)],
            check=True,
            timeout=INSTALL_SECONDS,
        )
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        url = f"http://127.0.0.1:{free_port()}"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("WSP_", "PYTHON", "COV"))
        }
        environment = {**inherited, "WSP_HTTP_PORT": url.rpartition(":")[2], "WSP_FTP_PORT": str(free_port())}
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [place / "bin" / "wsp", "serve"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + 60
            while "Ctrl-C" not in (folder / "log").read_text():
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                assert json.load(answer)["status"] == "ready"
            with urllib.request.urlopen(f"{url}/docs", timeout=10) as page:
                assert page.status == 200
            assert (folder / "wsp-data" / "admin-token").exists()
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(timeout=30)
        assert code == 0


class TestConstraints:
    def test_are_exact_and_name_no_place(self) -> None:
        lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
        assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line)] == []

    def test_cover_what_the_project_asks_for(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        pinned = {
            re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
            for line in (ROOT / "constraints.txt").read_text().splitlines()
        }
        asked = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
        names = {re.sub(r"[-_.]+", "-", re.split(r"[\[>=<~!; ]", wanted)[0]).lower() for wanted in asked}
        assert names - pinned == set()


class TestTheDockerfile:
    def test_has_a_stage_to_build_and_one_to_run(self) -> None:
        assert instructions("FROM") == ["python:3.12-slim AS build", "python:3.12-slim"]
        assert "--from=build /opt/wsp /opt/wsp" in instructions("COPY")

    def test_copies_only_what_is_there_and_not_ignored(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        for arguments in instructions("COPY"):
            if arguments.startswith("--from"):
                continue
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored

    def test_runs_as_nobody_special_on_a_volume(self) -> None:
        assert instructions("USER") == ["wsp"]
        assert instructions("VOLUME") == ["/data"]
        assert DOCKERFILE.index("\nUSER wsp") > DOCKERFILE.rindex("\nFROM ")

    def test_is_open_to_the_network_with_its_data_on_the_volume(self) -> None:
        (variables,) = instructions("ENV")
        assert {"WSP_DATA_DIR=/data", "WSP_HTTP_HOST=0.0.0.0", "WSP_FTP_HOST=0.0.0.0"} <= set(variables.split())

    def test_has_a_small_init_and_starts_the_server(self) -> None:
        assert instructions("ENTRYPOINT") == ['["/usr/bin/tini", "--"]']
        assert instructions("CMD") == ['["wsp", "serve"]']

    def test_exposes_the_default_ports_and_that_of_implicit_ftps(self) -> None:
        assert instructions("EXPOSE") == ["3082 2121 990 50000-50999"]

    @pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
    def test_health_check_tells_well_from_ill(self, status: int, code: int, free_port: Callable[[], int]) -> None:
        (check,) = instructions("HEALTHCHECK")
        command = json.loads(check.partition("CMD ")[2])
        port = free_port()
        answering = (
            "import http.server\n"
            "class H(http.server.BaseHTTPRequestHandler):\n"
            f"    def do_GET(self): self.send_response({status}); self.end_headers()\n"
            f"s = http.server.HTTPServer(('127.0.0.1', {port}), H); print(flush=True); s.handle_request()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", answering], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as server:
            assert server.stdout is not None
            server.stdout.readline()
            result = subprocess.run(
                [sys.executable, *command[1:]],
                env={**os.environ, "WSP_HTTP_PORT": str(port)},
                capture_output=True,
                timeout=30,
                check=False,
            )
            server.terminate()
        assert result.returncode == code


class TestTheMakefile:
    def test_refuses_an_old_python_with_one_line(self, tmp_path: Path) -> None:
        old = tmp_path / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
        (tmp_path / "pyproject.toml").touch()
        (tmp_path / "constraints.txt").touch()
        result = subprocess.run(
            ["make", "-C", str(tmp_path), "run", f"PYTHON={old}"], capture_output=True, text=True, check=False
        )
        assert result.returncode != 0
        assert "needs Python 3.11 or newer" in result.stderr
        assert not (tmp_path / ".venv").exists()


class TestTheCiRun:
    def test_is_a_program_that_names_no_package_index(self) -> None:
        script = ROOT / ".ci" / "run"
        assert os.access(script, os.X_OK)
        text = script.read_text()
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "set -euo pipefail" in text
        assert "make test" in text
        assert "://" not in text
        subprocess.run(["bash", "-n", str(script)], check=True)
