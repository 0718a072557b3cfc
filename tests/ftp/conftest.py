"""A real FTP server process, accounts on it, and clients."""

import ftplib
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.passwords import hash_password
from wsp.settings import Settings

PASSWORD = "S3cure•pass"
WALKING = """
from wsp.ftp.jail import Jail
Jail.use_openat2 = False
"""
START_SECONDS = 60.0
WAIT_SECONDS = 60.0
ENTRY = """
from wsp.settings import load_settings
from wsp.logs import configure_logging
from wsp.errors import StartupError
from wsp.ftp.server.run import run
settings = load_settings()
configure_logging(settings)
try:
    run(settings)
except StartupError as error:
    raise SystemExit(error.sentence)
"""


def wait_for(condition: Callable[[], Any], what: str = "the condition", seconds: float = WAIT_SECONDS) -> Any:
    """Poll until the condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    pytest.fail(f"{what} did not come about in {seconds} s")


@dataclass
class Account:
    """An account to log in with."""

    username: str
    home: Path
    password: str = PASSWORD


@dataclass
class FtpServer:
    """One or more FTP processes on one port."""

    settings: Settings
    database: Database
    folder: Path
    environment: dict[str, str]
    before_start: str = ""
    """Python that a process runs first, to make intervals short."""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.settings.ftp_port

    @property
    def log(self) -> str:
        """Everything that was logged so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("ftp-*.log")))

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start one more process, without waiting for it."""
        with (self.folder / f"ftp-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", self.before_start + ENTRY],
                stderr=log,
                stdout=log,
                env=self.environment,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def start(self) -> "FtpServer":
        """Start one more process, and wait until it serves."""
        served = self.log.count("FTP is served")
        process = self.spawn()
        wait_for(lambda: self.log.count("FTP is served") > served or process.poll() is not None, "the start")
        assert process.poll() is None, self.log
        return self

    def stop(self) -> None:
        """End what was started."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(START_SECONDS)

    def account(self, **columns: Any) -> Account:
        """A new account with an owner, and so a home, of its own."""
        owner = f"u{uuid.uuid4().hex[:8]}"
        self.owner(owner)
        return self.account_of(owner, **columns)

    def owner(self, name: str, status: str = "active") -> None:
        """A new user."""
        now = utc_now()
        with self.database.transaction() as session:
            session.add(User(username=name, role="user", status=status, created_at=now, updated_at=now))

    def account_of(self, owner: str, name: str = "deploy", **columns: Any) -> Account:
        """A new account of an existing owner."""
        now = utc_now()
        columns.setdefault("password_hash", password_hash())
        columns.setdefault("home_dir", f"/home/{owner}")
        username = f"{owner}_{name}"
        with self.database.transaction() as session:
            session.add(FtpAccount(username=username, owner=owner, created_at=now, updated_at=now, **columns))
        return Account(username, self.settings.files / columns["home_dir"].strip("/"))

    def change(self, account: Account, **columns: Any) -> None:
        """Change an account as the API would."""
        with self.database.transaction() as session:
            row = session.query(FtpAccount).filter_by(username=account.username).one()
            for name, value in columns.items():
                setattr(row, name, value)

    def anonymous(self, domain: str, **columns: Any) -> Path:
        """Turn a domain's anonymous access on. Returns its folder."""
        owner, now = f"u{uuid.uuid4().hex[:8]}", utc_now()
        self.owner(owner)
        columns.setdefault("enabled", True)
        with self.database.transaction() as session:
            session.add(AnonymousAccess(domain=domain, owner=owner, created_at=now, updated_at=now, **columns))
        return self.settings.files / "home" / owner / domain


_HASHES: dict[str, str] = {}


def password_hash() -> str:
    """The hash of the usual password; made once, for it is slow."""
    return _HASHES.setdefault(PASSWORD, hash_password(PASSWORD))


def environment(settings: Settings) -> dict[str, str]:
    """What a server process is told."""
    first, last = settings.ftp_passive_ports
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("WSP_")},
        "WSP_DATA_DIR": str(settings.data_dir),
        "WSP_DATABASE_URL": settings.database,
        "WSP_TIMEZONE": "UTC",
        "WSP_FTP_PORT": str(settings.ftp_port),
        "WSP_FTP_PASSIVE_PORTS": f"{first}-{last}",
    }


@pytest.fixture
def new_server(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Callable[..., FtpServer]]:
    """Makes a server of this test alone, on each store, with `WSP_*` variables; not started yet."""
    servers: list[FtpServer] = []

    def make(before_start: str = "", **variables: str) -> FtpServer:
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        told = environment(settings) | variables
        servers.append(FtpServer(settings, database, folder, told, before_start))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def new_shared_server(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Callable[..., FtpServer]]:
    """Makes a server that the tests of a module share, with `WSP_*` variables; not started yet.

    What they test has nothing to do with the store.
    """
    with ExitStack() as stack:

        def make(before_start: str = "", **variables: str) -> FtpServer:
            folder = tmp_path_factory.mktemp("ftp")
            data = folder / "data"
            data.mkdir()
            shutil.copy(migrated_sqlite, data / "wsp.db")
            settings = Settings(data_dir=data, timezone="UTC", ftp_port=free_port(), ftp_passive_ports=(20000, 29999))
            database = Database(settings.database)
            stack.callback(database.close)
            shared = FtpServer(settings, database, folder, environment(settings) | variables, before_start)
            stack.callback(lambda: _stop_without_traceback(shared))
            return shared

        yield make


def _stop_without_traceback(server: FtpServer) -> None:
    server.stop()
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def server(new_shared_server: Callable[..., FtpServer]) -> FtpServer:
    """A server that the tests of a module share, with the settings as they come."""
    return new_shared_server().start()


@pytest.fixture(scope="module")
def walking_server(new_shared_server: Callable[..., FtpServer]) -> FtpServer:
    """Another one, whose kernel has no openat2 as far as it knows."""
    return new_shared_server(WALKING).start()


def insecure_context() -> ssl.SSLContext:
    """For a self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def connect() -> Iterator[Callable[..., ftplib.FTP]]:
    """Opens a connection, and logs in when an account is given; closed at the end of the test."""
    with ExitStack() as stack:

        def opened(
            server: FtpServer, account: Account | None = None, *, tls: bool = False, host: str = "127.0.0.1"
        ) -> ftplib.FTP:
            client = ftplib.FTP_TLS(context=insecure_context()) if tls else ftplib.FTP()
            stack.callback(client.close)
            client.connect(host, server.port, timeout=WAIT_SECONDS)
            if account is not None:
                client.login(account.username, account.password)
                if isinstance(client, ftplib.FTP_TLS):
                    client.prot_p()
            return client

        yield opened


@pytest.fixture
def raw() -> Iterator[Callable[..., "Raw"]]:
    """A control connection that says exactly what it is told to, from an address of the loopback."""
    with ExitStack() as stack:

        def opened(server: FtpServer, source: str = "127.0.0.1") -> Raw:
            return stack.enter_context(Raw(server.port, source))

        yield opened


class Raw:
    """A bare control connection."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS, source_address=(source, 0))
        self.file = self.socket.makefile("rb")
        self.greeting = self.reply()

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """The next whole reply; empty at the end of the connection."""
        text = line = self.file.readline().decode("utf-8", "replace")
        while line[3:4] == "-" or (line and not line[:3].isdigit()):
            line = self.file.readline().decode("utf-8", "replace")
            text += line
        return text

    def ask(self, line: bytes | str) -> str:
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def login(self, account: Account) -> "Raw":
        self.ask(f"USER {account.username}")
        assert self.ask(f"PASS {account.password}").startswith("230")
        return self


@pytest.fixture
def until() -> Callable[..., Any]:
    """`wait_for`, for tests."""
    return wait_for


@pytest.fixture
def put() -> Callable[..., str]:
    """Upload bytes with ftplib."""

    def upload(client: ftplib.FTP, name: str, content: bytes, **options: Any) -> str:
        return client.storbinary(f"STOR {name}", io.BytesIO(content), **options)

    return upload


@pytest.fixture
def fetch() -> Callable[..., bytes]:
    """Download bytes with ftplib."""

    def download(client: ftplib.FTP, name: str, **options: Any) -> bytes:
        parts: list[bytes] = []
        client.retrbinary(f"RETR {name}", parts.append, **options)
        return b"".join(parts)

    return download


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a client. Where it is not installed the test is skipped, and fails when `CI` is set."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
        return found

    return find


@pytest.fixture(scope="session")
def lftp(program: Callable[[str], str]) -> str:
    """The path of lftp."""
    return program("lftp")


@pytest.fixture(scope="session")
def curl(program: Callable[[str], str]) -> str:
    """The path of curl."""
    return program("curl")
