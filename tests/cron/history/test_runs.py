"""Runs of a job as their owner sees them: pages, filters, cursors, and the request to end one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event, insert, text

from wsp.cron.history import runs
from wsp.cron.history.runs import Cursor, RunPage
from wsp.cron.models import JobRun
from wsp.database import Database
from wsp.errors import Conflict, Invalid, NotFound, Unavailable
from wsp.heartbeat import ServiceRow
from wsp.settings import Settings

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class RunsRead(NamedTuple):
    """A RunList of which the runs were read."""

    runs: list[Any]
    total: int
    older: Cursor | None
    newer: Cursor | None


@pytest.fixture
def listed(database: Database) -> Callable[..., RunsRead]:
    """`listed(job_id, limit=…, …)`: a page of the runs of a job, as an admin sees it at noon."""

    def look(job_id: int, *, visible_to: str | None = None, now: datetime = NOON, **page: Any) -> RunsRead:
        with database.reading() as session:
            found = runs.list_runs(session, visible_to, job_id, RunPage(**page), now)
            return RunsRead([run for piece in found.runs for run in piece], found.total, found.older, found.newer)

    return look


def ids(found: RunsRead) -> list[int]:
    return [run.id for run in found.runs]


class TestList:
    def test_newest_first_and_complete_without_a_limit(self, jobs: Any, listed: Any) -> None:
        job = jobs.add()
        added = [jobs.add_run(job, NOON - n * MINUTE) for n in range(5)]
        jobs.add_run(jobs.add(), NOON)
        found = listed(job)
        assert (ids(found), found.total, found.older, found.newer) == (added, 5, None, None)

    def test_what_is_claimed_ahead_of_its_time_is_not_shown(self, jobs: Any, listed: Any) -> None:
        job = jobs.add()
        now = jobs.add_run(job, NOON, "running", service_id="s")
        jobs.add_run(job, NOON + timedelta(seconds=1), "queued", service_id="s")
        waits = jobs.add_run(job, NOON + timedelta(seconds=2), "queued")
        for page in ({}, {"limit": 5}):
            found = listed(job, **page)
            assert (ids(found), found.total) == ([waits, now], 2)
        assert listed(job, now=NOON + timedelta(seconds=1), limit=5).total == 3

    @pytest.mark.parametrize(
        ("page", "expected"),
        [
            ({"status": "failed"}, [1]),
            ({"status": "failed,lost"}, [1, 2]),
            ({"trigger": "manual"}, [3]),
            ({"trigger": "manual,schedule", "status": "succeeded"}, [0, 3]),
            ({"since": NOON - MINUTE}, [0, 1]),
            ({"until": NOON - MINUTE}, [2, 3]),
            ({"since": NOON - 2 * MINUTE, "until": NOON}, [1, 2]),
            ({"search": "ÄRGER"}, [1]),
        ],
    )
    def test_filters(self, jobs: Any, listed: Any, page: dict[str, Any], expected: list[int]) -> None:
        job = jobs.add()
        added = [
            jobs.add_run(job, NOON),
            jobs.add_run(job, NOON - MINUTE, "failed", output="es gab Ärger\n"),
            jobs.add_run(job, NOON - 2 * MINUTE, "lost"),
            jobs.add_run(job, NOON - 3 * MINUTE),
        ]
        with jobs.database.transaction() as session:
            session.get_one(JobRun, added[3]).trigger = "manual"
        wanted = [added[n] for n in expected]
        assert ids(listed(job, **page)) == wanted
        found = listed(job, limit=1, **page)
        assert (ids(found), found.total) == (wanted[:1], len(wanted))

    def test_another_owners_job_does_not_exist(self, jobs: Any, listed: Any) -> None:
        job = jobs.add()
        with pytest.raises(NotFound, match="Cron job not found"):
            listed(job, visible_to="bob")

    def test_outputs_can_be_left_unread(self, jobs: Any, listed: Any, database: Database) -> None:
        job = jobs.add()
        jobs.add_run(job, NOON, output="x" * 1000, output_frames=b"frames")
        asked: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *seen: asked.append(seen[2]))
        listed(job, output=False)
        assert not any("cron_runs.output," in statement or "output_frames" in statement for statement in asked)
        assert any("cron_runs.output_bytes" in statement for statement in asked)


class TestCursors:
    def test_walk_there_and_back_while_runs_are_added(self, jobs: Any, listed: Any) -> None:
        job = jobs.add()
        added = [jobs.add_run(job, NOON - n * MINUTE) for n in range(10)]
        page = listed(job, limit=4)
        walked, places = ids(page), [page]
        for _ in range(2):
            jobs.add_run(job, NOON + len(walked) * timedelta(microseconds=1))
            page = listed(job, limit=4, cursor=str(page.older), now=NOON + MINUTE)
            walked += ids(page)
            places.append(page)
        assert walked == added
        assert page.older is None
        back = listed(job, limit=4, cursor=str(page.newer), now=NOON + MINUTE)
        assert ids(back) == ids(places[1])
        first = listed(job, limit=4, cursor=str(back.newer), now=NOON + MINUTE)
        assert ids(first) == ids(places[0])
        newest = listed(job, limit=4, cursor=str(first.newer), now=NOON + MINUTE)
        assert len(newest.runs) == 2
        assert newest.newer is None
        assert newest.total == 12

    def test_microseconds_are_kept_apart(self, jobs: Any, listed: Any) -> None:
        job = jobs.add()
        added = [jobs.add_run(job, NOON - n * timedelta(microseconds=1)) for n in range(3)]
        page = listed(job, limit=1)
        assert ids(listed(job, limit=1, cursor=str(page.older))) == [added[1]]

    @pytest.mark.parametrize("text", ["x", "%", "AAAA", "_" * 32, "\u00e4", "-" * 12])
    def test_what_is_none_is_refused(self, jobs: Any, listed: Any, text: str) -> None:
        job = jobs.add()
        if text == "AAAA":  # readable: the year 1970
            assert listed(job, cursor=text).runs == []
            return
        with pytest.raises(Invalid, match="Cursor must be what a Link header gave"):
            listed(job, cursor=text)

    def test_not_together_with_an_offset(self, jobs: Any, listed: Any) -> None:
        with pytest.raises(Invalid, match="Offset cannot be given together with a cursor"):
            listed(jobs.add(), cursor=str(Cursor(NOON)), offset=1)

    def test_a_late_part_is_found_by_the_index(self, jobs: Any, listed: Any, database: Database) -> None:
        job = jobs.add()
        values = {"job_id": job, "trigger": "schedule", "status": "succeeded", "output": "line\n" * 100}
        rows = [{**values, "scheduled_for": NOON - n * MINUTE} for n in range(20_000)]
        with database.transaction() as session:
            session.execute(insert(JobRun), rows)
        if not database.is_sqlite:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE cron_runs"))
        asked: list[tuple[str, Any]] = []
        event.listen(database.engine, "before_cursor_execute", lambda *seen: asked.append((seen[2], seen[3])))
        page = listed(job, limit=10, cursor=str(Cursor(NOON - 15_000 * MINUTE)))
        assert page.runs[0].scheduled_for == NOON - 15_001 * MINUTE
        of_runs = [each for each in asked if "cron_runs" in each[0]]
        assert len(of_runs) == 3
        counted, fetched, read = (_plan(database, *each) for each in of_runs)
        index = "uq_cron_runs_job_id_scheduled_for" if not database.is_sqlite else "sqlite_autoindex_cron_runs_1"
        assert index in counted
        assert "PRIMARY KEY" in read or "pk_cron_runs" in read
        assert "COVERING INDEX" in counted or "Index Only Scan" in counted
        assert index in fetched
        assert "TEMP B-TREE" not in fetched
        assert "Sort" not in fetched
        assert "(job_id=? AND scheduled_for<?)" in fetched or "scheduled_for < " in fetched.split("Filter")[0]


def _plan(database: Database, statement: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        return "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))


class TestKill:
    @pytest.fixture
    def scheduler(self, database: Database) -> None:
        """A scheduler that reports itself as alive at noon."""
        with database.transaction() as session:
            session.add(ServiceRow(id="s", node="n", kind="cron", pid=1, started_at=NOON, heartbeat_at=NOON))

    @pytest.fixture
    def kill(self, database: Database, settings: Settings) -> Callable[..., JobRun]:
        def ask(job_id: int, run_id: int, **options: Any) -> JobRun:
            with database.transaction() as session:
                return runs.kill_run(session, settings, None, job_id, run_id, **{"by": "ann", "now": NOON, **options})

        return ask

    @pytest.mark.usefixtures("scheduler")
    @pytest.mark.parametrize("status", ["running", "queued"])
    def test_what_a_scheduler_has_is_left_to_it(self, jobs: Any, kill: Any, status: str) -> None:
        job = jobs.add()
        run = jobs.add_run(job, NOON, status, service_id="s")
        kill(job, run, reason="it is stuck", grace_seconds=3)
        (row,) = jobs.runs(job)
        assert (row.status, row.finished_at) == (status, None)
        assert (row.kill_requested_at, row.kill_reason) == (NOON, "Killed by ann: it is stuck")
        assert row.kill_grace_seconds == 3

    @pytest.mark.usefixtures("scheduler")
    def test_a_second_request_changes_nothing(self, jobs: Any, kill: Any) -> None:
        job = jobs.add()
        run = jobs.add_run(job, NOON, "running", service_id="s")
        kill(job, run)
        kill(job, run, by="bob", reason="me too", now=NOON + MINUTE)
        (row,) = jobs.runs(job)
        assert (row.kill_requested_at, row.kill_reason) == (NOON, "Killed by ann")

    def test_what_waits_ends_at_once_without_a_scheduler(self, jobs: Any, kill: Any) -> None:
        job = jobs.add()
        run = jobs.add_run(job, NOON, "queued")
        kill(job, run)
        (row,) = jobs.runs(job)
        assert (row.status, row.reason, row.finished_at, row.started_at) == ("killed", "Killed by ann", NOON, None)

    def test_nobody_is_there_to_do_it(self, jobs: Any, kill: Any) -> None:
        job = jobs.add()
        run = jobs.add_run(job, NOON, "running", service_id="s")
        with pytest.raises(Unavailable, match="No scheduler is running"):
            kill(job, run)
        assert jobs.runs(job)[0].kill_requested_at is None

    @pytest.mark.usefixtures("scheduler")
    @pytest.mark.parametrize("status", ["succeeded", "failed", "timed_out", "killed", "lost", "skipped"])
    def test_a_run_that_is_over(self, jobs: Any, kill: Any, status: str) -> None:
        job = jobs.add()
        run = jobs.add_run(job, NOON, status)
        with pytest.raises(Conflict, match=f"Run {run} has ended already"):
            kill(job, run)

    def test_a_run_of_another_job_or_owner_does_not_exist(self, jobs: Any, kill: Any, database: Database) -> None:
        job, other = jobs.add(), jobs.add()
        run = jobs.add_run(job, NOON, "queued")
        with pytest.raises(NotFound, match="Run not found"):
            kill(other, run)
        with database.reading() as session:
            with pytest.raises(NotFound, match="Cron job not found"):
                runs.get_run(session, "bob", job, run)
            for impossible in (0, -1, 2**63):
                with pytest.raises(NotFound, match="Run not found"):
                    runs.get_run(session, None, job, impossible)
