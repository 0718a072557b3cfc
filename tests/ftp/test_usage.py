"""What the API says that homes hold."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wsp.database import Database
from wsp.ftp import usage
from wsp.ftp.counting import SLICE_ENTRIES, Figure
from wsp.ftp.usage import homes_counted_before, store_usage, usage_of

HOME = "/home/ann"
NOW = datetime(2026, 5, 18, 10, 44, 36, tzinfo=UTC)


class TestUsageOf:
    def test_what_the_ftp_server_wrote(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            store_usage(session, [(HOME, Figure(5 * 2**40, 7), NOW)])
        with database.reading() as session:
            assert usage_of(session, tmp_path, HOME) == Figure(5 * 2**40, 7)

    def test_without_a_word_from_it_the_home_is_counted(self, database: Database, tmp_path: Path) -> None:
        with database.reading() as session:
            assert usage_of(session, tmp_path, HOME) == Figure(0, 0)
            (tmp_path / "home/ann/www").mkdir(parents=True)
            (tmp_path / "home/ann/www/page").write_bytes(b"x" * 10)
            assert usage_of(session, tmp_path, HOME) == Figure(10, 1)

    def test_a_count_that_takes_too_long_is_no_answer(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "COUNT_SECONDS", 0.0)
        (tmp_path / "home/ann").mkdir(parents=True)
        for number in range(SLICE_ENTRIES + 1):
            (tmp_path / f"home/ann/{number}").touch()
        with database.reading() as session:
            assert usage_of(session, tmp_path, HOME) is None
            before = len(os.listdir("/proc/self/fd"))
            assert usage_of(session, tmp_path, HOME) is None
            assert len(os.listdir("/proc/self/fd")) == before

    def test_what_is_no_folder_cannot_be_counted(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home/ann").symlink_to("/etc")
        with database.reading() as session:
            assert usage_of(session, tmp_path, HOME) is None


class TestStoreUsage:
    def test_a_later_figure_takes_the_place_of_an_earlier_one(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            store_usage(session, [(HOME, Figure(1, 1), NOW), ("/home/bob", Figure(2, 2), NOW)])
        with database.transaction() as session:
            store_usage(session, [(HOME, Figure(3, 3), NOW)])
        with database.reading() as session:
            assert usage_of(session, tmp_path, HOME) == Figure(3, 3)
            assert usage_of(session, tmp_path, "/home/bob") == Figure(2, 2)


class TestHomesCountedBefore:
    def test_those_that_wait_the_longest_come_first(self, database: Database) -> None:
        hours = {"/home/c": 1, "/home/a": 3, "/home/b": 2, "/home/d": 0}
        with database.transaction() as session:
            store_usage(session, [(home, Figure(0, 0), NOW - timedelta(hours=ago)) for home, ago in hours.items()])
        with database.reading() as session:
            assert homes_counted_before(session, NOW, limit=2) == ["/home/a", "/home/b"]
            assert homes_counted_before(session, NOW - timedelta(hours=2), limit=5) == ["/home/a"]
