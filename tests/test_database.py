"""The store: what a transaction promises, on both stores."""

import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select

from wsp.auth.models import User
from wsp.changes import open_feed
from wsp.database import Database


def _user(name: str, at: datetime) -> User:
    return User(username=name, role="user", created_at=at, updated_at=at)


class TestSqliteFile:
    def test_is_made_for_our_eyes_alone(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'made' / 'wsp.db'}")
        assert list(tmp_path.iterdir()) == []
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE hashes (hash TEXT)")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").iterdir()}
        database.close()
        assert modes == {"wsp.db": 0o600, "wsp.db-wal": 0o600, "wsp.db-shm": 0o600}

    def test_that_exists_keeps_its_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "wsp.db"
        path.touch()
        path.chmod(0o640)
        database = Database(f"sqlite:///{path}")
        database.engine.connect().close()
        database.close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


class TestTransaction:
    def test_commits_when_the_block_ends(self, database: Database) -> None:
        with database.transaction() as session:
            session.add(_user("ann", datetime.now(UTC)))
        with database.reading() as session:
            assert session.scalars(select(User.username)).all() == ["ann"]

    def test_rolls_back_when_the_block_raises(self, database: Database) -> None:
        def fail() -> None:
            with database.transaction() as session:
                session.add(_user("ann", datetime.now(UTC)))
                session.flush()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        with database.reading() as session:
            assert session.scalars(select(User)).all() == []

    def test_keeps_instants_in_utc_whatever_zone_they_came_in(self, database: Database) -> None:
        at = datetime(2026, 5, 18, 17, 44, 36, tzinfo=timezone(timedelta(hours=7)))
        with database.transaction() as session:
            session.add(_user("ann", at))
        with database.reading() as session:
            stored = session.scalars(select(User)).one().created_at
        assert stored == at
        assert stored.utcoffset() == timedelta(0)


class TestChangeFeed:
    def test_wakes_for_a_commit_of_another_connection(self, database: Database) -> None:
        feed = open_feed(database)
        try:
            assert feed.wait(0.01) is False
            with database.transaction() as session:
                session.add(_user("ann", datetime.now(UTC)))
            assert feed.wait(10) is True
            assert feed.wait(0.01) is False
        finally:
            feed.close()
