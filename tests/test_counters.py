"""Counters that many processes add to."""

import threading

import pytest

from wsp.counters import Counters, Histogram, add_to_stored, labels_of, stored
from wsp.database import Database

SECONDS = Histogram("seconds", (0.1, 1.0))


def values(database: Database) -> dict[tuple[str, str, str], float]:
    with database.reading() as session:
        return {(row.name, row.labels, row.node): row.value for row in stored(session)}


class TestCounting:
    def test_adds_up_in_the_store(self, database: Database) -> None:
        for _ in range(2):
            counters = Counters()
            counters.add("runs_total", status="failed", trigger="manual")
            counters.add("runs_total", 2, trigger="manual", status="failed")
            with database.transaction() as session:
                counters.write(session, "web1")
        assert values(database) == {("runs_total", 'status="failed",trigger="manual"', "web1"): 6}

    def test_machines_are_counted_apart(self, database: Database) -> None:
        for node in ("web1", "web2"):
            with database.transaction() as session:
                add_to_stored(session, node, {("runs_total", ""): 1.0})
        assert len(values(database)) == 2

    def test_writes_what_is_new_only(self, database: Database) -> None:
        counters = Counters()
        counters.add("runs_total")
        for _ in range(2):
            with database.transaction() as session:
                counters.write(session, "web1")
        assert values(database) == {("runs_total", "", "web1"): 1}

    def test_what_was_not_written_can_be_put_back(self) -> None:
        counters = Counters()
        counters.add("runs_total", 3)
        taken = counters.take()
        counters.add("runs_total")
        counters.put_back(taken)
        assert counters.take() == {("runs_total", ""): 4}

    def test_two_processes_at_once_lose_nothing(self, database: Database) -> None:
        def work() -> None:
            for _ in range(20):
                with database.transaction() as session:
                    add_to_stored(session, "web1", {("b_total", ""): 1.0, ("a_total", ""): 1.0})

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(values(database).values()) == {80}


class TestAHistogram:
    @pytest.mark.parametrize(("value", "bucket"), [(0.05, "0.1"), (0.1, "0.1"), (0.5, "1"), (2.0, "+Inf")])
    def test_counts_a_value_in_its_bucket(self, value: float, bucket: str) -> None:
        counters = Counters()
        counters.observe(SECONDS, value)
        assert counters.take() == {
            ("seconds_bucket", f'le="{bucket}"'): 1,
            ("seconds_sum", ""): value,
            ("seconds_count", ""): 1,
        }

    def test_labels_are_read_back(self, database: Database) -> None:
        with database.transaction() as session:
            add_to_stored(session, "web1", {("runs_total", 'status="failed",trigger="manual"'): 1.0})
        with database.reading() as session:
            (row,) = stored(session)
        assert labels_of(row) == {"status": "failed", "trigger": "manual"}
