"""Real servers: `wsp serve` as a process of its own, on free ports, a temporary folder and either store.

`server` is shared by all tests of a run, one for each store, so tests must not assume it empty: they make users of
their own. `start_server` starts servers for one test alone, which may kill them.
"""

import ftplib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import psutil
import pytest

START_SECONDS = 60.0  # generous, as CI machines are slow; a test that passes does not wait for it
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02


class PostgresServer(Protocol):
    """The part of the `postgres` fixture that is used here."""

    def execute(self, statement: str) -> None: ...
    def url(self, name: str) -> str: ...


def _wait_until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        time.sleep(POLL_SECONDS)
    return value


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """`wait_until(condition, what, seconds)`: the first true value, or the test fails saying what did not happen."""
    return _wait_until


@dataclass
class Server:
    """A `wsp serve` that was started, and how to reach it."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    folder: Path
    out: Path
    err: Path

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["WSP_DATA_DIR"])

    @property
    def files(self) -> Path:
        return self.data_dir / "files"

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"http://127.0.0.1:{self.environment['WSP_HTTP_PORT']}"

    @property
    def http_port(self) -> int:
        return int(self.environment["WSP_HTTP_PORT"])

    @property
    def ftp_port(self) -> int:
        return int(self.environment["WSP_FTP_PORT"])

    @property
    def token(self) -> str:
        """The admin's key."""
        return (self.data_dir / "admin-token").read_text().strip()

    def log(self) -> str:
        """What it wrote so far, both outputs."""
        return self.out.read_text() + self.err.read_text()

    def pids(self, service: str | None = None) -> set[int]:
        """The child processes that run now, or those of one service: api, ftp or cron."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return set()
        found = set()
        for child in children:
            try:
                words = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "--supervised" in words and (service is None or service in words):
                found.add(child.pid)
        return found

    def wait_ready(self) -> "Server":
        """Wait for the banner, which is printed when everything answers."""

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"wsp serve ended with {self.process.returncode}:\n{self.log()}")
            return "Ctrl-C stops it" in self.out.read_text()

        _wait_until(ready, f"the server's banner; it wrote {self.log()}")
        return self

    def call(self, method: str, path: str, body: object = None, *, token: str | None = None) -> tuple[int, Any]:
        """One API call with a key (the admin's, if none is given). Returns the status and the decoded body."""
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def greets(self) -> bool:
        """Does the FTP server say its 220?"""
        try:
            with ftplib.FTP() as ftp:
                ftp.connect("127.0.0.1", self.ftp_port, timeout=5)
                return ftp.getwelcome().startswith("220")
        except (OSError, EOFError, ftplib.Error):
            return False

    def answers(self, path: str = "/healthz") -> bool:
        """Does a GET without a key answer 200 now?"""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `wsp` command with this server's settings."""
        return subprocess.run(
            [sys.executable, "-m", "wsp", *arguments],
            env=dict(self.environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def new_user(self, *, role: str = "user", permissions: tuple[str, ...] = ("all",)) -> tuple[str, str]:
        """A user nobody else uses, and a key of theirs: (username, secret)."""
        username = f"u{uuid.uuid4().hex[:10]}"
        added = self.cli("user", "add", username, "--role", role)
        assert added.returncode == 0, added.stderr
        options = [word for permission in permissions for word in ("--permission", permission)]
        created = self.cli("token", "create", username, *options)
        assert created.returncode == 0, created.stderr
        return username, created.stdout.strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it. Returns the exit code; fails the test when it takes far too long."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=STOP_SECONDS)

    def destroy(self) -> None:
        """Leave nothing behind, whatever the test did."""
        children = self.pids()
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in children:
            try:
                # A child whose parent was killed gets a moment to notice; pids are not reused this fast.
                psutil.Process(pid).wait(timeout=STOP_SECONDS)
            except psutil.NoSuchProcess:
                continue
            except psutil.TimeoutExpired:
                psutil.Process(pid).kill()


def _launch(folder: Path, database_url: str, free_port: Callable[[], int], given: Mapping[str, str]) -> Server:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
    environment = {
        **inherited,
        "WSP_DATA_DIR": str(folder / "data"),
        "WSP_DATABASE_URL": database_url,
        "WSP_HTTP_PORT": str(free_port()),
        "WSP_FTP_PORT": str(free_port()),
        "WSP_FTP_PASSIVE_PORTS": "20000-29999",
        "WSP_TIMEZONE": "Asia/Bangkok",  # an offset that shows when somebody forgets it
        **given,
    }
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "out", folder / "err"

    def open_log(path: Path) -> IO[bytes]:
        return path.open("wb")

    with open_log(out) as stdout, open_log(err) as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "wsp", "serve"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    return Server(process=process, environment=environment, folder=folder, out=out, err=err)


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
    end_runners: Callable[[Path], None],
) -> Iterator[Callable[[str], Server]]:
    """`servers(store)`: a running server on that store, launched when it is first asked for."""
    running: dict[str, Server] = {}

    def on(store: str) -> Server:
        if store not in running:
            folder = tmp_path_factory.mktemp("server")
            url = f"sqlite:///{folder / 'data' / 'wsp.db'}"
            if store == "postgresql":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                name = f"s{uuid.uuid4().hex}"
                postgres.execute(f"CREATE DATABASE {name} TEMPLATE template1")
                url = postgres.url(name)
            running[store] = _launch(folder, url, free_port, {})
        return running[store].wait_ready()

    yield on
    for server in running.values():
        server.destroy()
        end_runners(server.folder)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    """A running server that all tests share, on each store. It outlives the change to the other store."""
    return servers(request.param)


@pytest.fixture
def launch_server(
    empty_url: str, tmp_path: Path, free_port: Callable[[], int], end_runners: Callable[[Path], None]
) -> Iterator[Callable[..., Server]]:
    """`launch_server(WSP_…=…)` starts a server on an empty database and does not wait for anything.

    Every server of a test has the same folder and database, unless told otherwise: stop one, launch the next.
    """
    launched: list[Server] = []

    def launch(*, folder: Path | None = None, **given: str) -> Server:
        number = len(launched)
        former = launched[-1].environment if launched else {}
        kept = {name: former[name] for name in former if name in ("WSP_HTTP_PORT", "WSP_FTP_PORT", "WSP_DATA_DIR")}
        started = _launch(folder or tmp_path / f"server-{number}", empty_url, free_port, {**kept, **given})
        launched.append(started)
        return started

    yield launch
    for started in reversed(launched):
        started.destroy()
    end_runners(tmp_path)


@pytest.fixture
def start_server(launch_server: Callable[..., Server]) -> Callable[..., Server]:
    """`start_server(WSP_…=…)`: as `launch_server`, and ready when it returns."""
    return lambda **given: launch_server(**given).wait_ready()
