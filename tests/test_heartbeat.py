"""Heartbeats: a service that lives is seen to live."""

import threading
import time

import pytest
from sqlalchemy import delete, select

from wsp import heartbeat
from wsp.database import Database
from wsp.heartbeat import Heartbeat, ServiceRow, alive

DEADLINE_SECONDS = 30.0


class TestDraining:
    def test_it_lives_and_is_no_service_any_more(self, database: Database) -> None:
        ours = Heartbeat(database, "ftp", "ours")
        ours.start()
        ours.drain()
        with database.reading() as session:
            assert not alive(session, "ftp")
            assert session.get_one(ServiceRow, "ours").kind == heartbeat.DRAINING
        ours.stop()


class TestReporting:
    def test_a_row_that_was_cleaned_up_comes_back(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeat, "_until_next_beat", lambda: 0.01)
        ours = Heartbeat(database, "cron", "ours")
        ours.start()
        with database.reading() as session:
            started_at = session.get_one(ServiceRow, "ours").started_at
        with database.transaction() as session:
            session.execute(delete(ServiceRow))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            with database.reading() as session:
                if alive(session, "cron") and set(session.scalars(select(ServiceRow.id))) == {"ours"}:
                    break
            assert time.monotonic() < deadline, "it looks dead"
            threading.Event().wait(0.01)
        with database.reading() as session:
            assert session.get_one(ServiceRow, "ours").started_at == started_at
        ours.stop()
        with database.reading() as session:
            assert not alive(session, "cron")
