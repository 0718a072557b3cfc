"""Owners with webhooks, targets that answer in all the ways that targets do, and senders."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import select

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.settings import Settings
from wsp.version import store_version
from wsp.webhooks.models import Delivery, Webhook
from wsp.webhooks.sender import Sender
from wsp.webhooks.service import emit

WAIT_SECONDS = 30.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds, and give what it gave."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {WAIT_SECONDS:g} s in vain: {what}")
        time.sleep(0.02)
    return value


@pytest.fixture
def until() -> Callable[..., Any]:
    """`wait_for`, for tests."""
    return wait_for


# --- Targets ----------------------------------------------------------------------------------------------------


@dataclass
class Received:
    """A request that a target got."""

    path: str
    headers: Message
    body: bytes


@dataclass
class TargetServer:
    """An HTTP server that answers as the path says: `/ok`, `/500`, `/302`, `/hang`, `/drip`, `/close`, `/garbage`."""

    port: int
    scheme: str
    released: threading.Event
    received: list[Received] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    broken: bool = False
    """`/ok` answers 503 while this is set."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def of(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    target: TargetServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.target.received.append(Received(self.path, self.headers, body))
        kind = self.path.split("?")[0].strip("/")
        if kind == "hang":
            self.target.released.wait(WAIT_SECONDS)
        elif kind == "drip":
            with suppress(OSError):
                while not self.target.released.wait(0.1):
                    self.wfile.write(b"H")
        elif kind == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif kind == "garbage":
            self.wfile.write(b"220 ftp.example.com ready\r\n")
        elif kind.isdigit():
            self._answer(int(kind), b"it\x00 is <b>broken</b>\n" + b"x" * 100_000)
        else:
            self._answer(503 if self.target.broken else 204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Location", "/ok")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # whoever asked may not want to read it all
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""


@pytest.fixture
def released() -> threading.Event:
    """Set it, and targets that hang stop doing so."""
    return threading.Event()


@pytest.fixture
def start_target(released: threading.Event) -> Iterator[Callable[..., TargetServer]]:
    """Starts a target, with TLS where a certificate and its key are given."""
    with ExitStack() as stack:

        def start(certificate: tuple[str, str] | None = None) -> TargetServer:
            target = TargetServer(0, "https" if certificate else "http", released)
            handler = type("Handler", (_Handler,), {"target": target})
            server = _QuietServer(("127.0.0.1", 0), handler)
            target.port = server.server_address[1]
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                context.sni_callback = lambda _socket, name, _context: target.server_names.append(name)
                server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(released.set)
            return target

        yield start


@pytest.fixture
def target(start_target: Callable[..., TargetServer]) -> TargetServer:
    """A target without TLS."""
    return start_target()


# --- Webhooks ---------------------------------------------------------------------------------------------------


@dataclass
class Owner:
    """A user with webhooks, and what is delivered to them."""

    database: Database
    name: str = "ann"

    def __post_init__(self) -> None:
        now = utc_now()
        with self.database.transaction() as session:
            session.add(User(username=self.name, role="user", status="active", created_at=now, updated_at=now))

    def webhook(self, url: str = "https://example.com/", **columns: Any) -> str:
        """A new webhook for every event. Returns its id."""
        now = utc_now()
        with self.database.transaction() as session:
            webhook_id = f"{self.name}{len(session.scalars(select(Webhook.id)).all())}"
            given = {"events": ["*"], "secret": "whsec_test"} | columns
            session.add(Webhook(id=webhook_id, owner=self.name, url=url, created_at=now, updated_at=now, **given))
        return webhook_id

    def disable(self) -> None:
        with self.database.transaction() as session:
            session.query(User).filter_by(username=self.name).one().status = "disabled"

    def change(self, webhook_id: str, **columns: Any) -> None:
        with self.database.transaction() as session:
            webhook = session.get_one(Webhook, webhook_id)
            for name, value in columns.items():
                setattr(webhook, name, value)

    def emit(self, event: str = "upload.completed", **data: Any) -> int:
        with self.database.transaction() as session:
            return emit(session, self.name, event, data)

    def deliveries(self, **columns: Any) -> list[Delivery]:
        """The deliveries to this owner's webhooks, oldest first."""
        with self.database.reading() as session:
            query = select(Delivery).join(Webhook, Webhook.id == Delivery.webhook_id).where(Webhook.owner == self.name)
            return list(session.scalars(query.filter_by(**columns).order_by(Delivery.id)))


@pytest.fixture
def make_owner(database: Database) -> Callable[..., Owner]:
    """Makes users, on each store."""
    return lambda name="ann": Owner(database, name)


@pytest.fixture
def ann(make_owner: Callable[..., Owner]) -> Owner:
    """A user."""
    return make_owner()


# --- Senders ----------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that can be put forward."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def forward(self, **time: float) -> None:
        self.ahead += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    """The clock of the senders."""
    return Clock()


@pytest.fixture
def start_sender(
    settings: Settings, database: Database, clock: Clock, released: threading.Event
) -> Iterator[Callable[..., Sender]]:
    """Starts a sender on a thread of its own. It may call private addresses, unless told otherwise."""
    with ExitStack() as stack:

        def start(**changes: Any) -> Sender:
            own = Database(settings.database)
            version = store_version(own)
            told = settings.model_copy(update={"webhook_allow_private": True} | changes)
            sender = Sender(told, own, version, clock=clock)
            ended, begun = threading.Event(), threading.Event()

            async def run() -> None:
                version.start()
                sender.start()
                begun.set()
                await asyncio.to_thread(ended.wait)
                await sender.close()

            thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
            thread.start()
            assert begun.wait(WAIT_SECONDS)
            for step in (own.close, version.close, thread.join, ended.set, released.set):
                stack.callback(step)
            return sender

        yield start
