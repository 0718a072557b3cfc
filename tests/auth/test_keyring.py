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


@pytest.fixture
def keyring(database: Database) -> Iterator[Keyring]:
    """A keyring that does not follow other processes: tests say when it forgets."""
    keyring = Keyring(database)
    yield keyring
    keyring.stop()


@pytest.fixture
def secret(database: Database) -> str:
    """The key of a user."""
    with database.transaction() as session:
        _, secret = service.issue_key(session, service.create_user(session, "ann"), name="k", expires_in=1)
    return secret


class TestRemembered:
    def test_what_was_looked_up_is_remembered(self, keyring: Keyring, secret: str) -> None:
        assert keyring.remembered(secret, utc_now()) is None
        principal = keyring.look_up(secret, utc_now())
        assert keyring.remembered(secret, utc_now()) == principal

    def test_a_key_expires_while_it_is_remembered(self, keyring: Keyring, secret: str) -> None:
        keyring.look_up(secret, utc_now())
        with pytest.raises(Unauthorized):
            keyring.remembered(secret, utc_now() + timedelta(days=1))

    def test_a_change_is_seen_after_forgetting(self, keyring: Keyring, secret: str, database: Database) -> None:
        keyring.look_up(secret, utc_now())
        with database.transaction() as session:
            session.execute(update(ApiKey).values(enabled=False))
        keyring.forget()
        assert keyring.remembered(secret, utc_now()) is None
        with pytest.raises(Unauthorized):
            keyring.look_up(secret, utc_now())

    def test_what_was_read_before_a_commit_is_not_kept_after_it(
        self, keyring: Keyring, secret: str, database: Database
    ) -> None:
        def commit_in_between(*_: object) -> None:
            keyring.forget()

        event.listen(database.engine, "after_cursor_execute", commit_in_between)
        keyring.look_up(secret, utc_now())
        assert keyring.remembered(secret, utc_now()) is None


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
        keyring.look_up(secret, start)
        for second in range(1, 59):
            keyring.remembered(secret, start + timedelta(seconds=second))
        keyring.remembered(secret, start + timedelta(seconds=60))
        keyring.stop()
        assert len(written) == 2
        with database.reading() as session:
            last_used = session.query(ApiKey.last_used_at).scalar()
        assert last_used == start + timedelta(seconds=60)
