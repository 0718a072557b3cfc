"""What steps of planning ask of the store: it grows with what is due, not with what exists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from wsp.cron import manual
from wsp.cron.history import runs
from wsp.cron.history.runs import RunPage
from wsp.cron.models import CronJob
from wsp.cron.planning import arming, followups, planner, queue
from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.rows import JOBS, RUNS
from wsp.cron.planning.work import End, Result
from wsp.cron.server import recovery
from wsp.cron.surroundings import look_around
from wsp.database import utc_now
from wsp.heartbeat import ServiceRow

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
UTC_ZONE = ZoneInfo("UTC")
DUE = 20
MANY_JOBS = 5000
MANY_RUNS = 20_000
INSTRUCTIONS_AT_ONCE = 10


def add_jobs(jobs: JobStore, count: int, **values: Any) -> list[int]:
    first = jobs.add(**{"next_run_at": NOON, **values})
    job = {
        "owner": "admin",
        "name": "one of many",
        "command": "true",
        "cron_expr": "* * * * *",
        "created_at": NOON,
        "updated_at": NOON,
        "last_run_ok": False,
        "revision": 1,
        "armed_revision": 1,
        "next_run_at": NOON,
        "due_from": NOON - DAY,
        **values,
    }
    with jobs.database.transaction() as session:
        session.execute(insert(JOBS), [job] * (count - 1))
    return list(range(first, first + count))


def add_runs(jobs: JobStore, job_ids: list[int], count: int, **values: Any) -> None:
    with jobs.database.transaction() as session:
        session.execute(
            insert(RUNS),
            [
                {
                    "job_id": job_ids[n % len(job_ids)],
                    "scheduled_for": NOON - n * MICROSECOND,
                    "start_at": NOON - DAY,
                    "trigger": "schedule",
                    "status": "succeeded",
                    **values,
                }
                for n in range(1, count + 1)
            ],
        )


def fill(jobs: JobStore) -> None:
    """Add many jobs that are not due, with a log."""
    add_runs(jobs, add_jobs(jobs, MANY_JOBS, next_run_at=NOON + DAY), MANY_RUNS)
    add_jobs(jobs, MANY_JOBS, next_run_at=None, enabled=False)


def work(jobs: JobStore, step: Callable[[Session], Any]) -> int:
    """What a step, in a transaction that is rolled back, costs: instructions of SQLite, rows that PostgreSQL reads."""
    with jobs.database.engine.connect() as connection, Session(connection) as session:
        if jobs.database.is_sqlite:
            turns = 0

            def turn() -> int:
                nonlocal turns
                turns += 1
                return 0

            session.execute(text("SELECT 1"))
            raw: Any = session.connection().connection.driver_connection
            raw.set_progress_handler(turn, INSTRUCTIONS_AT_ONCE)
            step(session)
            raw.set_progress_handler(None, 0)
            session.rollback()
            return turns * INSTRUCTIONS_AT_ONCE
        read = text("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables")
        before = int(session.scalar(read) or 0)
        step(session)
        rows = int(session.scalar(read) or 0) - before
        session.rollback()
        return rows


def analyze(jobs: JobStore) -> None:
    """PostgreSQL does this by itself, after a while. SQLite has to do without."""
    if not jobs.database.is_sqlite:
        with jobs.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def plan(session: Session, claim: planner.Claim) -> planner.Batch:
    return planner.plan(session, NOON, NOON, UTC_ZONE, claim, places=1000)


class TestManyOthersCostNothing:
    @pytest.fixture
    def costs(self, jobs: JobStore) -> Callable[[Callable[[Session], Any]], tuple[int, int]]:
        """What a step costs before and after there is much else in the store."""

        def measure(step: Callable[[Session], Any]) -> tuple[int, int]:
            analyze(jobs)
            few = work(jobs, step)
            fill(jobs)
            analyze(jobs)
            return few, work(jobs, step)

        return measure

    def check(self, costs: tuple[int, int]) -> None:
        few, many = costs
        # A scan of what was added would be ten times what these steps cost.
        assert many < 2 * few + 1000, costs

    def test_a_look(self, jobs: JobStore, costs: Any) -> None:
        add_jobs(jobs, DUE)
        self.check(costs(lambda session: planner.waiting(session, NOON)))

    def test_decisions(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        ids = add_jobs(jobs, DUE)
        add_runs(jobs, ids, DUE // 2, status="running", service_id="other")
        self.check(costs(lambda session: plan(session, planning.claim)))

    def test_decisions_about_jobs_with_a_long_log(self, jobs: JobStore, planning: Planning) -> None:
        ids = add_jobs(jobs, DUE)
        analyze(jobs)
        few = work(jobs, lambda session: plan(session, planning.claim))
        add_runs(jobs, ids, MANY_RUNS)
        analyze(jobs)
        self.check((few, work(jobs, lambda session: plan(session, planning.claim))))

    def test_arming(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        add_jobs(jobs, DUE, armed_revision=0)

        def step(session: Session) -> None:
            assert len(arming.arm(session, NOON, UTC_ZONE)) == DUE
            arming.rearm_wanted(session, NOON, UTC_ZONE)
            arming.remember_zone(session, UTC_ZONE)

        self.check(costs(step))

    def test_the_queue(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        ids = add_jobs(jobs, DUE, next_run_at=NOON + DAY, due_from=NOON)
        add_runs(jobs, ids, DUE, status="queued")

        def step(session: Session) -> None:
            runs = queue.claim_queued(session, NOON, UTC_ZONE, planning.claim).runs
            assert len(runs) == DUE
            queue.refresh(session, runs, UTC_ZONE)
            assert len(queue.settle(session, runs, NOON, UTC_ZONE, planning.claim).runs) == DUE

        self.check(costs(step))

    def test_kills(self, jobs: JobStore, costs: Any) -> None:
        ids = add_jobs(jobs, DUE, next_run_at=NOON + DAY, due_from=NOON)
        add_runs(jobs, ids, 3, status="queued", kill_requested_at=NOON)

        def step(session: Session) -> None:
            assert len(queue.cancel_killed(session, NOON)) == 3
            queue.kills_wanted(session, "planner")

        self.check(costs(step))

    def test_starts_of_the_service(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        add_jobs(jobs, DUE, cron_expr="@reboot", next_run_at=None)
        self.check(costs(lambda session: planner.reboot(session, NOON, planning.claim)))

    def test_what_follows_a_run(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"retries": 1})
        [run] = planning.plan(NOON).runs
        jobs.follow(jobs.add(cron_expr=""), job_id, "any")
        result = Result(status="failed", started_at=NOON, finished_at=NOON)
        ends = [End(run, result, will_retry=True), End(run, result)]
        self.check(costs(lambda session: followups.follow_ups(session, ends, NOON)))

    def test_what_follows_many_runs(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        ids = add_jobs(jobs, DUE)
        jobs.follow(jobs.add(cron_expr=""), ids[0], "any")
        result = Result(status="succeeded", started_at=NOON, finished_at=NOON)
        ends = [End(run, result) for run in planning.plan(NOON).runs]
        assert len(ends) == DUE
        self.check(costs(lambda session: followups.follow_ups(session, ends, NOON)))

    def test_giving_runs_back(self, jobs: JobStore, planning: Planning, costs: Any) -> None:
        add_jobs(jobs, DUE)
        runs = [run.run_id for run in planning.plan(NOON - MICROSECOND, ahead=0.5).runs]
        assert len(runs) == DUE
        self.check(costs(lambda session: recovery.give_back(session, runs, planning.claim.service_id)))

    def test_looking_for_lost_runs(self, jobs: JobStore, costs: Any) -> None:
        add_runs(jobs, add_jobs(jobs, DUE, next_run_at=NOON + DAY), DUE, status="running", service_id="other")
        with jobs.database.transaction() as session:
            for n in range(DUE):
                recovery.remember_runner(session, f"gone-{n}", "runner")

        def step(session: Session) -> None:
            assert len(recovery.find_orphans(session, NOON + DAY, service_id="me", active=())) == DUE
            recovery.forget_runners(session)

        self.check(costs(step))

    def test_runs_that_somebody_asks_for(self, jobs: JobStore) -> None:
        """Of a job with a long log."""
        job_id = jobs.add(next_run_at=None)
        with jobs.database.transaction() as session:
            now, for_long = utc_now(), utc_now() + timedelta(hours=1)
            session.add(ServiceRow(id="me", node="here", kind="cron", pid=1, started_at=now, heartbeat_at=for_long))

        def step(session: Session) -> None:
            assert manual.request_run(session, None, job_id, requested_by="admin").id

        analyze(jobs)
        few = work(jobs, step)
        add_runs(jobs, [job_id], MANY_RUNS)
        analyze(jobs)
        self.check((few, work(jobs, step)))

    @pytest.mark.parametrize("status", ["failed", "skipped"])
    def test_the_log_by_status(self, jobs: JobStore, status: str) -> None:
        """Of a job with a long log: what is counted for it, too."""
        job_id = jobs.add(next_run_at=None)
        jobs.add_run(job_id, NOON - DAY, status)
        page = RunPage(limit=5, status=status)

        def step(session: Session) -> None:
            assert runs.list_runs(session, None, job_id, page, NOON).total == 1

        analyze(jobs)
        few = work(jobs, step)
        add_runs(jobs, [job_id], MANY_RUNS)
        analyze(jobs)
        self.check((few, work(jobs, step)))

    def test_what_is_shown_with_jobs(self, jobs: JobStore, costs: Any) -> None:
        shown = add_jobs(jobs, 3)
        add_runs(jobs, shown, 3, status="queued", service_id="me", start_at=utc_now() + DAY)

        def step(session: Session) -> None:
            rows = [session.get_one(CronJob, job_id) for job_id in shown]
            look_around(session, rows, UTC_ZONE)

        self.check(costs(step))

    def test_the_check_can_fail(self, jobs: JobStore, costs: Any) -> None:
        add_jobs(jobs, DUE)
        with pytest.raises(AssertionError):
            self.check(costs(lambda session: session.execute(text("SELECT count(*) FROM cron_runs WHERE pid = 1"))))


class TestRoundTrips:
    def test_a_batch_is_a_handful_of_statements_however_many_jobs_it_has(
        self, jobs: JobStore, planning: Planning
    ) -> None:
        add_jobs(jobs, DUE)
        seen = []

        def note(_c: Connection, _cursor: object, statement: str, *_more: object) -> None:
            if not statement.startswith("BEGIN"):
                seen.append(statement)

        event.listen(jobs.database.engine, "before_cursor_execute", note)
        try:
            with jobs.database.transaction(announce=False) as session:
                assert plan(session, planning.claim).jobs == DUE
        finally:
            event.remove(jobs.database.engine, "before_cursor_execute", note)
        assert len(seen) == 6  # jobs, two of pauses, open runs, the rows, and when the jobs are due next

    def test_pauses_are_two(self, jobs: JobStore) -> None:
        with jobs.database.reading() as session:
            assert not Pauses.load(session, UTC_ZONE)
