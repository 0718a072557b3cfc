"""What a run's end brings about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron import followups
from wsp.cron.policy import Policy
from wsp.cron.work import PlannedRun, Status

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
END = NOON + timedelta(seconds=5, microseconds=7)


def started(jobs: JobStore, planning: Planning, **policy: Any) -> PlannedRun:
    jobs.add(next_run_at=NOON, policy=policy or None)
    [run] = planning.plan(NOON).runs
    planning.start(run)
    return run


class TestRetries:
    def test_after_a_failure(self, jobs: JobStore, planning: Planning) -> None:
        first = started(jobs, planning, retries=2, retry_delay_seconds=30)
        assert planning.end(first, "failed", END).will_retry
        row = jobs.runs(first.job.id)[1]
        assert (row.status, row.trigger, row.attempt, row.cause_run_id) == ("queued", "retry", 2, first.run_id)
        assert (row.scheduled_for, row.start_at) == (END, END + 30 * SECOND)
        assert planning.claim_queued(END + 29 * SECOND).jobs == 0
        [second] = planning.claim_queued(END + 30 * SECOND).runs
        assert (second.attempt, second.cause_run_id) == (2, first.run_id)
        later = END + 40 * SECOND
        assert planning.end(second, "timed_out", later).will_retry
        [third] = planning.claim_queued(later + 60 * SECOND).runs
        assert third.attempt == 3
        assert not planning.end(third, "failed", later + MINUTE).will_retry
        assert len(jobs.runs(first.job.id)) == 3

    @pytest.mark.parametrize("status", ["succeeded", "killed", "lost"])
    def test_not_after(self, jobs: JobStore, planning: Planning, status: Status) -> None:
        first = started(jobs, planning, retries=2)
        assert not planning.end(first, status, END).will_retry
        assert len(jobs.runs()) == 1

    @pytest.mark.parametrize(("retries", "attempts"), [(0, 2), (1, 2), (3, 4)])
    def test_a_lost_run_when_it_is_asked_for(
        self, jobs: JobStore, planning: Planning, retries: int, attempts: int
    ) -> None:
        run = started(jobs, planning, on_lost="retry", retries=retries, retry_delay_seconds=0)
        now = END
        while planning.end(run, "lost", now).will_retry:
            now += SECOND
            [run] = planning.claim_queued(now).runs
        assert run.attempt == attempts

    @pytest.mark.parametrize(
        ("delay", "backoff", "attempt", "seconds"),
        [
            (60, 2.0, 1, 60),
            (60, 2.0, 2, 120),
            (60, 2.0, 4, 480),
            (60, 1.0, 9, 60),
            (60, 2.0, 12, 86400),
            (60, 10.0, 100_000, 86400),
            (90_000, 1.0, 1, 90_000),
            (90_000, 2.0, 3, 90_000),
            (0, 2.0, 5, 0),
            (60, 0.5, 3, 15),
        ],
    )
    def test_delays(self, delay: int, backoff: float, attempt: int, seconds: float) -> None:
        policy = Policy(retry_delay_seconds=delay, retry_backoff=backoff)
        assert followups.delay_before(policy, attempt) == seconds

    def test_a_retry_waits_for_a_run_that_came_between(self, jobs: JobStore, planning: Planning) -> None:
        first = started(jobs, planning, retries=1, retry_delay_seconds=60)
        planning.end(first, "failed", END)
        [tick] = planning.plan(NOON + MINUTE).runs
        planning.start(tick)
        now = END + 61 * SECOND
        assert planning.claim_queued(now).jobs == 0
        planning.end(tick, "succeeded", now)
        assert [run.trigger for run in planning.claim_queued(now).runs] == ["retry"]

    def test_recording_an_end_twice_does_no_harm(self, jobs: JobStore, planning: Planning) -> None:
        run = started(jobs, planning, retries=1)
        for _ in range(2):
            planning.end(run, "failed", END)
        assert len(jobs.runs()) == 2

    def test_their_times_are_never_those_of_ticks(self, jobs: JobStore, planning: Planning) -> None:
        run = started(jobs, planning, retries=1)
        planning.end(run, "failed", NOON + MINUTE)
        assert jobs.runs()[1].scheduled_for == NOON + MINUTE + timedelta(microseconds=1)


class TestChains:
    @pytest.mark.parametrize(
        ("status", "conditions"),
        [
            ("succeeded", {"success", "any"}),
            ("failed", {"failure", "any"}),
            ("timed_out", {"failure", "any"}),
            ("killed", {"failure", "any"}),
            ("lost", {"failure", "any"}),
        ],
    )
    def test_by_condition(self, jobs: JobStore, planning: Planning, status: Status, conditions: set[str]) -> None:
        run = started(jobs, planning)
        followers = {jobs.add(cron_expr="", name=condition): condition for condition in ("success", "failure", "any")}
        for job_id, condition in followers.items():
            jobs.follow(job_id, run.job.id, condition)
        planning.end(run, status, END)
        runs = planning.claim_queued(END).runs
        assert {followers[follower.job.id] for follower in runs} == conditions
        assert {(follower.trigger, follower.cause_run_id) for follower in runs} == {("after", run.run_id)}

    def test_the_last_attempt_decides(self, jobs: JobStore, planning: Planning) -> None:
        first = started(jobs, planning, retries=1, retry_delay_seconds=0)
        jobs.follow(jobs.add(cron_expr=""), first.job.id, "any")
        planning.end(first, "failed", END)
        [second] = planning.claim_queued(END).runs
        planning.end(second, "succeeded", END + SECOND)
        [follower] = planning.claim_queued(END + SECOND).runs
        assert follower.cause_run_id == second.run_id

    def test_a_skipped_tick_sets_off_nothing(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.follow(jobs.add(cron_expr=""), job_id, "any")
        jobs.pause()
        ends = planning.plan(NOON).ends
        with jobs.database.transaction() as session:
            followups.follow_ups(session, ends, NOON)
        assert len(jobs.runs()) == 1

    def test_a_skipped_retry_leaves_the_failure_as_the_last_word(self, jobs: JobStore, planning: Planning) -> None:
        first = started(jobs, planning, retries=1, retry_delay_seconds=0)
        for condition in ("success", "failure"):
            jobs.follow(jobs.add(cron_expr="", name=condition), first.job.id, condition)
        planning.end(first, "failed", END)
        jobs.change(first.job.id, enabled=False)
        ends = planning.claim_queued(END).ends
        with jobs.database.transaction() as session:
            followups.follow_ups(session, ends, END)
        assert [run.job.name for run in planning.claim_queued(END).runs] == ["failure"]

    def test_a_disabled_follower_does_not_run(self, jobs: JobStore, planning: Planning) -> None:
        run = started(jobs, planning)
        jobs.follow(jobs.add(cron_expr="", enabled=False), run.job.id, "any")
        planning.end(run, "succeeded", END)
        assert len(jobs.runs()) == 1

    def test_a_follower_that_is_paused_is_skipped_with_the_reason(self, jobs: JobStore, planning: Planning) -> None:
        run = started(jobs, planning)
        follower = jobs.add(cron_expr="", tags=",db,")
        jobs.follow(follower, run.job.id, "any")
        jobs.maintenance(starts_at=NOON, tag="db", reason="vacuum")
        planning.end(run, "succeeded", END)
        planning.claim_queued(END)
        [row] = jobs.runs(follower)
        assert (row.status, row.reason, row.cause_run_id) == ("skipped", "Maintenance: vacuum", run.run_id)

    def test_two_parents_that_end_at_one_instant(self, jobs: JobStore, planning: Planning) -> None:
        parents = [started(jobs, planning), started(jobs, planning)]
        follower = jobs.add(cron_expr="", policy={"overlap": "allow"})
        for run in parents:
            jobs.follow(follower, run.job.id, "success")
        for _ in range(2):  # the second time, for a commit whose confirmation got lost
            for run in parents:
                planning.end(run, "succeeded", END)
        assert [row.cause_run_id for row in jobs.runs(follower)] == [run.run_id for run in parents]
