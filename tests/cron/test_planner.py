"""What is due, decided at a given time, on both stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from wsp.cron import planner
from wsp.cron.expression import Schedule, parse
from wsp.cron.planner import Claim, PlannedRun

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
UTC_ZONE = ZoneInfo("UTC")
CLAIM = Claim(service_id="planner", node="here", boot_id="boot", running_since=NOON - 30 * MINUTE)

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

Step = Callable[..., Any]
Plan = Callable[..., list[PlannedRun]]


@pytest.fixture
def step(jobs: JobStore) -> Step:
    """Do one step of the planner in a transaction."""

    def do(function: Callable[..., Any], now: datetime, **more: object) -> Any:
        with jobs.database.transaction() as session:
            return function(session, now, UTC_ZONE, **more)

    return do


@pytest.fixture
def plan(jobs: JobStore, step: Step) -> Plan:
    """Plan at a time: first what overlaps, then what starts."""

    def do(now: datetime, *, keep_runs: int = 1000, limit: int = 100, claim: Claim = CLAIM) -> list[PlannedRun]:
        step(planner.skip_barred, now, claim=claim, keep_runs=keep_runs)
        batch: planner.Batch = step(planner.plan, now, claim=claim, keep_runs=keep_runs, limit=limit)
        return batch.runs

    return do


class TestArm:
    def test_a_new_job_is_armed_from_now_on(self, jobs: JobStore, step: Step) -> None:
        job_id = jobs.add(cron_expr="30 13 * * *")
        assert step(planner.arm, NOON) == [job_id]
        job = jobs.job(job_id)
        assert job.next_run_at == NOON + 1.5 * HOUR
        assert (job.revision, job.armed_revision) == (1, 1)
        assert job.updated_at == job.created_at
        assert step(planner.arm, NOON) == []

    def test_a_disabled_job_has_no_next_run(self, jobs: JobStore, step: Step) -> None:
        job_id = jobs.add(next_run_at=NOON + MINUTE)
        jobs.change(job_id, enabled=False)
        step(planner.arm, NOON)
        assert jobs.job(job_id).next_run_at is None

    def test_an_enabled_one_is_armed_from_now_on_and_makes_up_for_nothing(
        self, jobs: JobStore, step: Step, plan: Plan
    ) -> None:
        job_id = jobs.add(next_run_at=NOON - 10 * MINUTE, enabled=False)
        jobs.change(job_id, enabled=True)
        assert plan(NOON) == []
        step(planner.arm, NOON)
        assert plan(NOON) == []
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    def test_a_bad_expression_stays_quiet_and_the_others_are_armed(self, jobs: JobStore, step: Step) -> None:
        bad, good = jobs.add(cron_expr="rubbish"), jobs.add()
        assert step(planner.arm, NOON) == [bad, good]
        assert jobs.job(bad).next_run_at is None
        assert jobs.job(good).next_run_at == NOON + MINUTE
        assert step(planner.arm, NOON) == []

    def test_a_change_that_comes_in_between_is_armed_by_the_next_call(
        self, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = jobs.add()
        with jobs.database.transaction() as session:

            def change_meanwhile(expression: str) -> Schedule:
                session.execute(text("UPDATE cron_jobs SET revision = revision + 1"))
                return parse(expression)

            monkeypatch.setattr(planner, "parse", change_meanwhile)
            assert planner.arm(session, NOON, UTC_ZONE) == []
        assert jobs.job(job_id).next_run_at is None

    def test_takes_a_bounded_number_at_a_time(self, jobs: JobStore, step: Step) -> None:
        ids = [jobs.add() for _ in range(5)]
        assert step(planner.arm, NOON, limit=3) == ids[:3]
        assert step(planner.arm, NOON, limit=3) == ids[3:]


class TestPlan:
    def test_one_row_for_a_tick(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON, command="echo x", email_on_complete="a@b.c", email_on_error=True)
        now = NOON + timedelta(milliseconds=20)
        [planned] = plan(now)
        [run] = jobs.runs(job_id)
        assert planned == PlannedRun(run.id, job_id, "admin", "nightly", "echo x", "a@b.c", True, NOON)
        assert (run.status, run.trigger, run.scheduled_for, run.started_at) == ("running", "schedule", NOON, now)
        assert (run.service_id, run.node, run.boot_id) == ("planner", "here", "boot")
        assert jobs.job(job_id).next_run_at == NOON + MINUTE
        assert plan(now) == []

    def test_not_before_its_time(self, jobs: JobStore, plan: Plan) -> None:
        jobs.add(next_run_at=NOON)
        assert plan(NOON - timedelta(microseconds=1)) == []
        assert len(plan(NOON)) == 1

    def test_nothing_that_is_disabled_changed_or_deleted(self, jobs: JobStore, plan: Plan) -> None:
        jobs.add(next_run_at=NOON, enabled=False)
        jobs.change(jobs.add(next_run_at=NOON), cron_expr="0 0 1 1 *")
        jobs.delete(jobs.add(next_run_at=NOON))
        assert plan(NOON) == []
        assert jobs.runs() == []

    def test_those_first_that_have_waited_longest(self, jobs: JobStore, plan: Plan) -> None:
        late, early = jobs.add(next_run_at=NOON), jobs.add(next_run_at=NOON - MINUTE)
        last = jobs.add(next_run_at=NOON)
        assert [run.job_id for run in plan(NOON, limit=2)] == [early, late]
        assert [run.job_id for run in plan(NOON, limit=2)] == [last]

    def test_a_bad_expression_does_not_keep_the_others_from_running(self, jobs: JobStore, plan: Plan) -> None:
        bad, good = jobs.add(next_run_at=NOON, cron_expr="rubbish"), jobs.add(next_run_at=NOON)
        assert [run.job_id for run in plan(NOON)] == [good]
        assert jobs.job(bad).next_run_at is None
        assert jobs.runs(bad) == []

    def test_a_tick_that_somebody_decided_is_not_run(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.add_run(job_id, NOON)
        assert plan(NOON) == []
        assert [run.status for run in jobs.runs(job_id)] == ["succeeded"]
        assert jobs.job(job_id).next_run_at == NOON + MINUTE


class TestDisabledOwner:
    def test_ticks_are_skipped_until_the_owner_is_back(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        with jobs.database.transaction() as session:
            session.execute(text("UPDATE users SET status = 'disabled'"))
        assert plan(NOON) == []
        [skipped] = jobs.runs(job_id)
        assert (skipped.status, skipped.reason) == ("skipped", "The owner of this job is disabled")
        with jobs.database.transaction() as session:
            session.execute(text("UPDATE users SET status = 'active'"))
        [run] = plan(NOON + MINUTE)
        assert run.scheduled_for == NOON + MINUTE


class TestOverlap:
    def test_a_tick_of_a_job_that_still_runs_is_skipped(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        [first] = plan(NOON)
        assert plan(NOON + MINUTE) == []
        skipped = jobs.runs(job_id)[1]
        assert (skipped.status, skipped.scheduled_for) == ("skipped", NOON + MINUTE)
        assert skipped.reason == f"Run {first.run_id} of this job was still going"
        assert (skipped.started_at, skipped.finished_at) == (None, NOON + MINUTE)
        assert jobs.job(job_id).next_run_at == NOON + 2 * MINUTE

    def test_it_is_recorded_when_no_place_is_free_too(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        plan(NOON)
        plan(NOON + MINUTE, limit=0)
        assert [run.status for run in jobs.runs(job_id)] == ["running", "skipped"]

    def test_the_log_stays_bounded_while_a_run_hangs(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        [hanging] = plan(NOON, keep_runs=3)
        for minute in range(1, 9):
            plan(NOON + minute * MINUTE, keep_runs=3)
        runs = jobs.runs(job_id)
        assert [run.status for run in runs] == ["running", "skipped", "skipped", "skipped"]
        assert runs[0].id == hanging.run_id
        assert runs[-1].scheduled_for == NOON + 8 * MINUTE


class TestMissedTicks:
    def test_the_newest_runs_late_the_older_ones_are_skipped(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON - 50 * MINUTE, cron_expr="*/10 * * * *")
        [planned] = plan(NOON + timedelta(seconds=5))
        assert planned.scheduled_for == NOON
        runs = jobs.runs(job_id)
        assert [run.scheduled_for for run in runs] == [NOON - n * 10 * MINUTE for n in (5, 4, 3, 2, 1, 0)]
        assert [run.status for run in runs] == ["skipped"] * 5 + ["running"]
        # This scheduler runs since 11:30.
        assert [run.reason for run in runs] == [planner.NOT_RUNNING] * 2 + [planner.TOO_LATE] * 3 + [""]
        assert jobs.job(job_id).next_run_at == NOON + 10 * MINUTE

    def test_a_long_outage_leaves_a_hundred_rows(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON - timedelta(days=365))
        [planned] = plan(NOON)
        runs = jobs.runs(job_id)
        assert planned.scheduled_for == NOON
        assert len(runs) == planner.MISSED_TICKS_KEPT + 1
        assert runs[0].scheduled_for == NOON - 100 * MINUTE

    def test_a_daily_job_runs_once_after_days(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON - timedelta(days=3, hours=9), cron_expr="0 3 * * *")
        assert [run.scheduled_for for run in plan(NOON)] == [NOON - 9 * HOUR]
        assert len(jobs.runs(job_id)) == 4
        assert plan(NOON) == []


class TestClockSteps:
    def test_a_step_back_runs_no_tick_twice(self, jobs: JobStore, step: Step, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        for minute in range(3):
            [run] = plan(NOON + minute * MINUTE)
            self.end(jobs, run)
        back = NOON - 2 * MINUTE
        step(planner.rearm, back)
        assert jobs.job(job_id).next_run_at == NOON + 3 * MINUTE
        assert plan(NOON + 2 * MINUTE) == []
        jobs.change(job_id, name="changed meanwhile")
        step(planner.arm, back)
        assert jobs.job(job_id).next_run_at == NOON + 3 * MINUTE
        assert len(jobs.runs(job_id)) == 3

    def test_a_step_back_of_more_than_three_hours_is_a_correction(self, jobs: JobStore, step: Step, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        [run] = plan(NOON)
        self.end(jobs, run)
        back = NOON - timedelta(days=300)
        step(planner.rearm, back)
        assert jobs.job(job_id).next_run_at == back + MINUTE
        assert [run.scheduled_for for run in plan(back + MINUTE)] == [back + MINUTE]

    def test_ticks_decided_before_a_correction_stay_decided(self, jobs: JobStore, step: Step, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON, cron_expr="0 12 * * *")
        [run] = plan(NOON)
        self.end(jobs, run)
        step(planner.rearm, NOON - 20 * HOUR)
        assert jobs.job(job_id).next_run_at == NOON
        assert plan(NOON) == []
        assert jobs.job(job_id).next_run_at == NOON + 24 * HOUR

    def test_a_step_forward_skips_none_silently(self, jobs: JobStore, plan: Plan) -> None:
        job_id = jobs.add(next_run_at=NOON)
        assert [run.scheduled_for for run in plan(NOON + 5 * MINUTE)] == [NOON + 5 * MINUTE]
        runs = jobs.runs(job_id)
        assert [run.scheduled_for for run in runs] == [NOON + n * MINUTE for n in range(6)]
        assert {run.reason for run in runs[:-1]} == {planner.TOO_LATE}

    def test_overdue_jobs_are_left_to_plan(self, jobs: JobStore, step: Step) -> None:
        job_id = jobs.add(next_run_at=NOON)
        assert step(planner.rearm, NOON + MINUTE) is None
        assert jobs.job(job_id).next_run_at == NOON

    def test_every_job_gets_its_turn(self, jobs: JobStore, step: Step) -> None:
        ids = [jobs.add(next_run_at=NOON + 48 * HOUR) for _ in range(5)]
        last = step(planner.rearm, NOON, limit=3)
        assert last == ids[2]
        assert step(planner.rearm, NOON, after_id=last, limit=3) == ids[4]
        assert step(planner.rearm, NOON, after_id=ids[4], limit=3) is None
        assert {jobs.job(job_id).next_run_at for job_id in ids} == {NOON + MINUTE}

    def end(self, jobs: JobStore, run: PlannedRun) -> None:
        with jobs.database.transaction() as session:
            session.execute(text("UPDATE cron_runs SET status = 'succeeded' WHERE id = :id"), {"id": run.run_id})


class TestTwoSchedulers:
    def test_each_tick_has_one_winner(self, jobs: JobStore) -> None:
        """Two sessions at once: on PostgreSQL the second passes over what the first has locked."""
        if jobs.database.is_sqlite:
            pytest.skip("SQLite lets one writer in at a time")
        ids = [jobs.add(next_run_at=NOON) for _ in range(4)]

        def some(session: Session, limit: int) -> list[int]:
            return [run.job_id for run in planner.plan(session, NOON, UTC_ZONE, CLAIM, keep_runs=10, limit=limit).runs]

        with jobs.database.transaction() as one, jobs.database.transaction() as two:
            assert some(one, 2) == ids[:2]
            assert some(two, 4) == ids[2:]
        assert len(jobs.runs()) == 4


class TestWaiting:
    def test_nothing(self, jobs: JobStore) -> None:
        jobs.add(next_run_at=NOON, enabled=False)
        with jobs.database.reading() as session:
            assert planner.waiting(session) == planner.Waiting(False, None)

    def test_the_earliest(self, jobs: JobStore) -> None:
        jobs.add(next_run_at=NOON + HOUR)
        jobs.add(next_run_at=NOON)
        with jobs.database.reading() as session:
            assert planner.waiting(session) == planner.Waiting(False, NOON)
            assert planner.next_due_after(session, NOON) == NOON + HOUR
            assert planner.next_due_after(session, NOON + HOUR) is None

    def test_something_to_arm(self, jobs: JobStore) -> None:
        jobs.add()
        with jobs.database.reading() as session:
            assert planner.waiting(session).unarmed
