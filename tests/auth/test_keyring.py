"""The keyring: fast for the next request, and never behind a change."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import event, update

from wsp.auth import service
from wsp.auth.keyring import Keyring
from wsp.auth.models import ApiKey
from wsp.database import Database, utc_now
from wsp.errors import Unauthorized


class Version:
    """A version of the store that moves when a test says so."""

    exact = True

    def __init__(self) -> None:
        self.number = 0

    def start(self) -> None:
        """Nothing to follow."""

    def current(self) -> int:
        return self.number

    def note_commit(self) -> None:
        self.number += 1

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.fixture
def version() -> Version:
    return Version()


@pytest.fixture
def keyring(database: Database, version: Version) -> Iterator[Keyring]:
    keyring = Keyring(database, version)
    yield keyring
    keyring.close()


@pytest.fixture
def secret(database: Database) -> str:
    """The key of a user."""
    with database.transaction() as session:
        _, secret = service.issue_key(session, service.create_user(session, "ann"), name="k", expires_in=1)
    return secret


class TestRemembered:
    def test_what_was_looked_up_is_remembered(self, keyring: Keyring, secret: str) -> None:
        none, notes = keyring.remembered(secret, utc_now())
        principal = keyring.look_up(secret, utc_now(), notes)
        assert (none, keyring.remembered(secret, utc_now())[0]) == (None, principal)

    def test_a_key_expires_while_it_is_remembered(self, keyring: Keyring, secret: str) -> None:
        keyring.look_up(secret, utc_now(), keyring.remembered(secret, utc_now())[1])
        with pytest.raises(Unauthorized):
            keyring.remembered(secret, utc_now() + timedelta(days=1))

    def test_a_commit_has_the_store_asked_again(
        self, keyring: Keyring, secret: str, database: Database, version: Version
    ) -> None:
        keyring.look_up(secret, utc_now(), keyring.remembered(secret, utc_now())[1])
        with database.transaction() as session:
            session.execute(update(ApiKey).values(enabled=False))
        version.number = 1
        none, notes = keyring.remembered(secret, utc_now())
        assert none is None
        with pytest.raises(Unauthorized):
            keyring.look_up(secret, utc_now(), notes)

    def test_what_was_read_before_a_commit_is_not_kept_after_it(
        self, keyring: Keyring, secret: str, version: Version
    ) -> None:
        _, notes = keyring.remembered(secret, utc_now())
        version.number = 1
        keyring.remembered("wsp_of_another_request", utc_now())
        keyring.look_up(secret, utc_now(), notes)
        assert keyring.remembered(secret, utc_now())[0] is None


class TestLastUsed:
    def test_is_written_once_a_minute_and_not_per_request(
        self, keyring: Keyring, secret: str, database: Database
    ) -> None:
        written: list[str] = []
        event.listen(
            database.engine,
            "before_cursor_execute",
            lambda _c, _cur, statement, *_: written.append(statement) if statement.startswith("UPDATE") else None,
        )
        start = utc_now()
        keyring.look_up(secret, start, keyring.remembered(secret, start)[1])
        for second in range(1, 59):
            keyring.remembered(secret, start + timedelta(seconds=second))
        keyring.remembered(secret, start + timedelta(seconds=60))
        keyring.close()
        assert len(written) == 2
        with database.reading() as session:
            last_used = session.query(ApiKey.last_used_at).scalar()
        assert last_used == start + timedelta(seconds=60)
