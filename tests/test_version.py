"""The version of the store moves with every commit, of whomever."""

import time
from collections.abc import Iterator

import pytest

from wsp.auth.service import create_user
from wsp.database import Database
from wsp.errors import Invalid
from wsp.version import StoreVersion, store_version


@pytest.fixture
def version(database: Database) -> Iterator[StoreVersion]:
    version = store_version(database)
    version.start()
    yield version
    version.close()


class TestCurrent:
    def test_moves_with_a_commit_of_another_process(self, database: Database, version: StoreVersion) -> None:
        elsewhere = Database(database.url.render_as_string(hide_password=False))
        before = version.current()
        with elsewhere.transaction() as session:
            create_user(session, "ann")
        elsewhere.close()
        deadline = time.monotonic() + (0 if version.exact else 10)
        while version.current() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert version.current() != before

    def test_moves_with_a_commit_of_our_own_at_once(self, database: Database, version: StoreVersion) -> None:
        before = version.current()
        with database.transaction() as session:
            create_user(session, "ann")
        version.note_commit()
        assert version.current() != before

    def test_stays_while_nothing_is_committed(self, database: Database) -> None:
        if not database.is_sqlite:
            pytest.skip("only an exact version promises to stay")
        version = store_version(database)
        before = version.current()
        with database.reading() as session:
            assert session.connection().exec_driver_sql("SELECT 1").scalar() == 1
        with pytest.raises(Invalid), database.transaction() as session:
            create_user(session, "Not A Name")
        assert version.current() == before
        version.close()
