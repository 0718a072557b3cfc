"""The store: what a transaction promises, on both stores."""

import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

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


class TestLook:
    def test_sees_each_commit_on_a_connection_that_it_keeps(self, database: Database) -> None:
        for number in range(3):
            with database.transaction() as session:
                session.execute(text("UPDATE epochs SET value = :number WHERE name = 'bans'"), {"number": number})
            assert database.look(_epoch_of_bans) == number
        assert database.engine.pool.checkedout() == 1  # type: ignore[attr-defined]

    def test_goes_on_after_a_question_that_failed(self, database: Database) -> None:
        assert database.look(_epoch_of_bans) == 0
        with pytest.raises(SQLAlchemyError):
            database.look(lambda connection: connection.execute(text("SELECT nothing FROM nowhere")))
        assert database.look(_epoch_of_bans) == 0

    @pytest.mark.parametrize("store", ["postgresql"], indirect=True)
    def test_connects_again_when_the_store_has_hung_up(self, database: Database, store: str) -> None:
        assert database.look(_epoch_of_bans) == 0
        with database.transaction() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert database.look(_epoch_of_bans) == 0


def _epoch_of_bans(connection: Connection) -> int:
    return int(connection.execute(text("SELECT value FROM epochs WHERE name = 'bans'")).scalar_one())


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
