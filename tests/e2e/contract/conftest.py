"""Callers of the API over real HTTP: an admin, and as many users with as many kinds of key as a test wants."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest

from wsp.auth import service
from wsp.database import Database

API = "/api/v1"


class Running(Protocol):
    """The part of a started server that is used here."""

    url: str
    token: str
    environment: dict[str, str]


@dataclass
class Caller:
    """A user, a key of theirs, and a client that sends it."""

    username: str
    secret: str
    http: httpx.Client

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """One call below `/api/v1`. `body` is sent as JSON."""
        if body is not None:
            options["json"] = body
        return self.http.request(method, f"{API}{path}", **options)


@pytest.fixture(scope="session")
def store_of_server(server: Running) -> Iterator[Database]:
    """The server's own database, to look whether something was written."""
    database = Database(server.environment["WSP_DATABASE_URL"])
    yield database
    database.close()


@pytest.fixture(scope="session")
def make_caller(server: Running, store_of_server: Database) -> Iterator[Callable[..., Caller]]:
    """`make_caller(permissions=[…], username=…, role=…, ip_whitelist=[…], expires_in=…)`: a user and a new key."""
    clients: list[httpx.Client] = []

    def make(
        *,
        permissions: tuple[str, ...] = ("all",),
        username: str | None = None,
        role: str = "user",
        ip_whitelist: tuple[str, ...] = (),
        expires_in: int = 0,
    ) -> Caller:
        with store_of_server.transaction() as session:
            if username is None:
                user = service.create_user(session, f"u{uuid.uuid4().hex[:10]}", role=role, email="someone@example.com")
            else:
                user = service.get_user(session, username)
            _, secret = service.issue_key(
                session,
                user,
                name="test",
                permissions=permissions,
                ip_whitelist=ip_whitelist,
                expires_in=expires_in,
            )
        return caller(user.username, secret)

    def caller(username: str, secret: str) -> Caller:
        client = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, follow_redirects=False, timeout=30
        )
        clients.append(client)
        return Caller(username, secret, client)

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def admin(make_caller: Callable[..., Caller]) -> Caller:
    """The admin that the first start made, with a key of all permissions."""
    return make_caller(username="admin")


@pytest.fixture
def ann(make_caller: Callable[..., Caller]) -> Caller:
    """A user that only this test knows, who owns nothing yet."""
    return make_caller()


@pytest.fixture
def anybody(server: Running) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=server.url, follow_redirects=False, timeout=30) as client:
        yield client
