"""What is due, decided at a given time, on both stores."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.planning import planner, timetable
from wsp.cron.planning.work import Job, PlannedRun
from wsp.cron.policy import Policy

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def statuses(jobs: JobStore, job_id: int) -> list[str]:
    return [run.status for run in jobs.runs(job_id)]


class TestPlan:
    def test_one_row_for_a_tick(self, jobs: JobStore, planning: Planning) -> None:
        policy = {"retries": 2}
        job_id = jobs.add(
            next_run_at=NOON, command="echo x", email_on_complete="a@b.c", email_on_error=True, policy=policy
        )
        now = NOON + timedelta(milliseconds=20)
        batch = planning.plan(now)
        [run] = jobs.runs(job_id)
        job = jobs.job(job_id)
        told = Job(job_id, "admin", "nightly", "echo x", "a@b.c", True, Policy(retries=2), job.updated_at)
        assert batch == planner.Batch([PlannedRun(run.id, told, NOON, NOON, "schedule")], [], 1)
        assert (run.status, run.trigger, run.scheduled_for, run.start_at) == ("queued", "schedule", NOON, NOON)
        assert (run.service_id, run.node, run.boot_id) == ("planner", "here", "boot")
        assert (job.next_run_at, job.due_from) == (NOON + MINUTE, NOON)
        assert planning.plan(now) == planner.Batch()

    def test_not_before_its_time(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        assert planning.plan(NOON - timedelta(microseconds=1)).jobs == 0
        assert planning.plan(NOON).jobs == 1

    def test_nothing_that_is_disabled_changed_or_deleted(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON, enabled=False)
        jobs.change(jobs.add(next_run_at=NOON), cron_expr="0 0 1 1 *")
        jobs.delete(jobs.add(next_run_at=NOON))
        assert planning.plan(NOON) == planner.Batch()
        assert jobs.runs() == []

    def test_those_first_that_have_waited_longest(self, jobs: JobStore, planning: Planning) -> None:
        late, early = jobs.add(next_run_at=NOON), jobs.add(next_run_at=NOON - SECOND)
        last = jobs.add(next_run_at=NOON)
        assert [run.job.id for run in planning.plan(NOON, limit=2).runs] == [early, late]
        assert [run.job.id for run in planning.plan(NOON, limit=2).runs] == [last]

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"cron_expr": "rubbish"}, "Cron expression has 1 fields"),
            ({"timezone": "Moon/Crater"}, "Timezone 'Moon/Crater' is not known"),
        ],
    )
    def test_what_cannot_be_read_does_not_keep_the_others_from_running(
        self, jobs: JobStore, planning: Planning, wrong: dict[str, Any], reason: str
    ) -> None:
        bad, good = jobs.add(next_run_at=NOON, **wrong), jobs.add(next_run_at=NOON)
        assert [run.job.id for run in planning.plan(NOON).runs] == [good]
        assert jobs.job(bad).next_run_at is None
        [row] = jobs.runs(bad)
        assert row.status == "skipped"
        assert row.reason.startswith(reason)

    def test_each_job_on_the_clock_of_its_zone(self, jobs: JobStore, planning: Planning) -> None:
        here, there = (
            jobs.add(next_run_at=NOON, cron_expr="0 12 * * *"),
            jobs.add(next_run_at=NOON, cron_expr="0 14 * * *", timezone="Europe/Berlin"),
        )
        planning.plan(datetime(2026, 10, 24, 12, 0, 1, tzinfo=UTC))
        assert jobs.job(here).next_run_at == datetime(2026, 10, 25, 12, tzinfo=UTC)
        assert jobs.job(there).next_run_at == datetime(2026, 10, 25, 13, tzinfo=UTC)

    def test_a_tick_that_somebody_decided_is_not_run(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.add_run(job_id, NOON)
        batch = planning.plan(NOON)
        assert (batch.runs, batch.ends, batch.jobs) == ([], [], 1)
        assert statuses(jobs, job_id) == ["succeeded"]
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    def test_more_than_there_are_places_for_wait_in_the_queue(self, jobs: JobStore, planning: Planning) -> None:
        ids = [jobs.add(next_run_at=NOON) for _ in range(3)]
        assert [run.job.id for run in planning.plan(NOON, places=1).runs] == ids[:1]
        assert [(run.status, run.service_id) for run in jobs.runs()] == [("queued", "planner"), *[("queued", "")] * 2]
        assert planning.waiting(NOON).queue_due == NOON
        assert [run.job.id for run in planning.claim_queued(NOON + SECOND, limit=1).runs] == [ids[1]]
        assert [run.job.id for run in planning.claim_queued(NOON + SECOND).runs] == [ids[2]]
        assert planning.claim_queued(NOON + SECOND).jobs == 0

    def test_a_transaction_has_a_bounded_number_of_rows(
        self, jobs: JobStore, planning: Planning, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(planner, "BATCH_ROWS", 150)
        for _ in range(5):
            jobs.add(next_run_at=NOON - 100 * MINUTE)
        assert [planning.plan(NOON).jobs for _ in range(4)] == [2, 2, 1, 0]
        assert len(jobs.runs()) == 5 * 101


class TestAhead:
    """Ticks are claimed a moment before they are due, so that orders go out at the second itself."""

    SOON = NOON - timedelta(seconds=0.4)

    def test_a_tick_is_at_hand_before_it_is_due(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        assert planning.plan(self.SOON, ahead=0.3).jobs == 0
        [run] = planning.plan(self.SOON, ahead=0.5).runs
        assert (run.start_at, run.contended) == (NOON, False)
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    def test_it_is_contended_by_a_run_of_another_scheduler(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        other = jobs.add_run(job_id, NOON - MINUTE, "running", service_id="other", start_at=NOON - MINUTE)
        [run] = planning.plan(self.SOON, ahead=0.5).runs
        assert run.contended
        [end] = planning.settle([run], NOON).ends
        assert end.result.reason == f"Run {other} of this job was still going"

    def test_it_is_not_by_a_run_of_this_one_which_is_in_memory(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.add_run(job_id, NOON - MINUTE, "running", service_id="planner", start_at=NOON - MINUTE)
        assert not planning.plan(self.SOON, ahead=0.5).runs[0].contended

    def test_nor_when_overlap_is_allowed(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"overlap": "allow"})
        jobs.add_run(job_id, NOON - MINUTE, "running", service_id="other", start_at=NOON - MINUTE)
        assert not planning.plan(self.SOON, ahead=0.5).runs[0].contended

    def test_what_is_barred_now_is_decided_when_it_is_due(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        jobs.pause()
        [run] = planning.plan(self.SOON, ahead=0.5).runs
        assert run.contended
        [end] = planning.settle([run], NOON).ends
        assert end.result.reason == "The jobs of admin are paused"

    def test_a_pause_that_is_over_by_then_does_not_count(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        jobs.pause(until=NOON)
        assert not planning.plan(self.SOON, ahead=0.5).runs[0].contended


class TestBarred:
    def test_disabled_owner(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.set_owner(status="disabled")
        batch = planning.plan(NOON)
        [end] = batch.ends
        assert batch.runs == []
        assert (end.run.job.id, end.run.scheduled_for) == (job_id, NOON)
        assert (end.result.status, end.result.reason) == ("skipped", "The owner of this job is disabled")
        [row] = jobs.runs(job_id)
        assert (row.id, row.status, row.reason) == (end.run.run_id, "skipped", end.result.reason)
        assert (row.started_at, row.finished_at) == (None, NOON)
        jobs.set_owner(status="active")
        assert [run.scheduled_for for run in planning.plan(NOON + MINUTE).runs] == [NOON + MINUTE]

    def test_paused(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        jobs.pause(reason="moving house")
        planning.plan(NOON)
        assert [run.reason for run in jobs.runs(job_id)] == ["The jobs of admin are paused: moving house"]

    def test_a_tick_in_a_maintenance_that_is_over_is_no_missed_one(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - HOUR, cron_expr="0 * * * *")
        jobs.maintenance(starts_at=NOON - 2 * HOUR, ends_at=NOON - MINUTE, reason="new disk")
        planning.plan(NOON - SECOND)
        assert [(run.status, run.reason) for run in jobs.runs(job_id)] == [("skipped", "Maintenance: new disk")]

    def test_a_missed_tick_does_not_run_in_a_maintenance(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - HOUR, cron_expr="0 * * * *")
        jobs.maintenance(starts_at=NOON - 2 * MINUTE)
        planning.plan(NOON - MINUTE)
        assert [(run.status, run.reason) for run in jobs.runs(job_id)] == [("skipped", "Maintenance")]

    def test_the_deadline(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, cron_expr="0 * * * *", policy={"start_deadline_seconds": 60})
        assert planning.plan(NOON + timedelta(seconds=60)).runs
        other = jobs.add(next_run_at=NOON, cron_expr="0 * * * *", policy={"start_deadline_seconds": 60})
        assert not planning.plan(NOON + timedelta(seconds=61)).runs
        assert statuses(jobs, job_id) == ["queued"]
        [row] = jobs.runs(other)
        assert row.reason == "The deadline has passed: it could not start within 60 s"


class TestOverlap:
    def going(self, jobs: JobStore, planning: Planning, **policy: Any) -> tuple[int, PlannedRun]:
        """A job whose run of noon goes on, and this run."""
        job_id = jobs.add(next_run_at=NOON, policy=policy or None)
        [run] = planning.plan(NOON).runs
        planning.start(run)
        return job_id, run

    def test_skip(self, jobs: JobStore, planning: Planning) -> None:
        job_id, first = self.going(jobs, planning)
        [end] = planning.plan(NOON + MINUTE).ends
        assert end.result.reason == f"Run {first.run_id} of this job was still going"
        assert statuses(jobs, job_id) == ["running", "skipped"]
        assert jobs.job(job_id).next_run_at == NOON + 2 * MINUTE

    def test_skip_when_one_still_waits_for_a_place(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        planning.plan(NOON, places=0)
        [waiting] = jobs.runs()
        [end] = planning.plan(NOON + MINUTE).ends
        assert end.result.reason == f"Run {waiting.id} of this job was still waiting to start"

    def test_allow(self, jobs: JobStore, planning: Planning) -> None:
        self.going(jobs, planning, overlap="allow")
        assert len(planning.plan(NOON + MINUTE).runs) == 1

    def test_queue(self, jobs: JobStore, planning: Planning) -> None:
        job_id, first = self.going(jobs, planning, overlap="queue")
        for minute in (1, 2):
            assert planning.plan(NOON + minute * MINUTE).runs == []
        assert statuses(jobs, job_id) == ["running", "queued", "queued"]
        assert planning.waiting(NOON + 2 * MINUTE).queue_due is None
        assert planning.claim_queued(NOON + 2 * MINUTE).jobs == 0
        planning.end(first, "succeeded", NOON + 3 * MINUTE)
        assert planning.waiting(NOON + 3 * MINUTE).queue_due == NOON + MINUTE
        [second] = planning.claim_queued(NOON + 3 * MINUTE).runs
        assert second.scheduled_for == NOON + MINUTE
        planning.start(second)
        planning.end(second, "succeeded", NOON + 3 * MINUTE)
        # The tick of now comes after the one that has waited.
        assert planning.plan(NOON + 3 * MINUTE).runs == []
        assert [run.scheduled_for for run in planning.claim_queued(NOON + 3 * MINUTE).runs] == [NOON + 2 * MINUTE]

    def test_queue_holds_a_hundred(self, jobs: JobStore, planning: Planning) -> None:
        job_id, _ = self.going(jobs, planning, overlap="queue")
        for minute in range(100):
            at = NOON + minute * SECOND + timedelta(microseconds=1)
            jobs.add_run(job_id, at, "queued", start_at=at)
        [end] = planning.plan(NOON + 2 * MINUTE).ends[-1:]
        assert end.result.reason == "100 runs of this job were waiting already"

    def test_replace(self, jobs: JobStore, planning: Planning) -> None:
        job_id, first = self.going(jobs, planning, overlap="replace")
        batch = planning.plan(NOON + MINUTE)
        second = jobs.runs(job_id)[1]
        assert (batch.runs, batch.ends, batch.kills) == ([], [], True)
        killed = jobs.run(first.run_id)
        assert (killed.kill_requested_at, killed.kill_reason) == (NOON + MINUTE, f"Replaced by run {second.id}")
        # The next one takes the place of the one that waits for the kill; the kill itself is not asked for again.
        batch = planning.plan(NOON + 2 * MINUTE)
        third = jobs.runs(job_id)[2]
        assert not batch.kills
        assert [(end.run.run_id, end.result.reason) for end in batch.ends] == [
            (second.id, f"Run {third.id} took its place")
        ]
        assert jobs.run(first.run_id).kill_reason == f"Replaced by run {second.id}"
        assert planning.claim_queued(NOON + 2 * MINUTE).jobs == 0
        planning.end(first, "killed", NOON + 2 * MINUTE)
        assert [run.run_id for run in planning.claim_queued(NOON + 2 * MINUTE).runs] == [third.id]
        assert statuses(jobs, job_id) == ["killed", "skipped", "queued"]


TEN_MINUTES: dict[str, Any] = {"next_run_at": NOON - 50 * MINUTE, "cron_expr": "*/10 * * * *"}
TICKS = [NOON - n * 10 * MINUTE for n in (5, 4, 3, 2, 1, 0)]
NOW = NOON + timedelta(seconds=5)


class TestMissed:
    """This scheduler runs since 11:30."""

    def test_run_once_is_the_default_and_runs_the_newest_late(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(**TEN_MINUTES)
        [run] = planning.plan(NOW + MINUTE).runs
        assert (run.scheduled_for, run.trigger) == (NOON, "missed")
        rows = jobs.runs(job_id)
        assert [row.scheduled_for for row in rows] == TICKS
        assert [row.status for row in rows] == ["skipped"] * 5 + ["queued"]
        assert [row.reason for row in rows] == [planner.NOT_RUNNING] * 2 + [planner.TOO_LATE] * 3 + [""]
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        assert jobs.job(job_id).next_run_at == NOON + 10 * MINUTE

    def test_a_tick_that_is_only_a_little_late_was_not_missed(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(**TEN_MINUTES)
        [run] = planning.plan(NOW).runs
        assert run.trigger == "schedule"

    def test_but_it_was_when_this_scheduler_did_not_run_yet(self, jobs: JobStore, planning: Planning) -> None:
        planning.claim = replace(planning.claim, running_since=NOON + SECOND)
        jobs.add(next_run_at=NOON)
        [run] = planning.plan(NOW).runs
        assert run.trigger == "missed"

    def test_skip(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(**TEN_MINUTES, policy={"missed": "skip"})
        batch = planning.plan(NOW + MINUTE)
        assert batch.runs == []
        assert [end.run.scheduled_for for end in batch.ends] == TICKS
        assert statuses(jobs, job_id) == ["skipped"] * 6

    def test_skip_runs_what_was_not_missed(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(**TEN_MINUTES, policy={"missed": "skip"})
        assert [run.scheduled_for for run in planning.plan(NOW).runs] == [NOON]
        assert statuses(jobs, job_id) == ["skipped"] * 5 + ["queued"]

    def test_run_all_one_after_another(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(**TEN_MINUTES, policy={"missed": "run_all"})
        started = []
        [run] = planning.plan(NOW).runs
        while True:
            started.append(run.scheduled_for)
            planning.start(run)
            assert planning.claim_queued(NOW).jobs == 0
            planning.end(run, "succeeded", NOW)
            runs = planning.claim_queued(NOW).runs
            if not runs:
                break
            [run] = runs
        assert started == TICKS
        assert statuses(jobs, job_id) == ["succeeded"] * 6
        assert {row.trigger for row in jobs.runs(job_id)} == {"missed"}

    def test_run_all_at_once_when_overlap_is_allowed(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(**TEN_MINUTES, policy={"missed": "run_all", "overlap": "allow"})
        assert [run.scheduled_for for run in planning.plan(NOW).runs] == TICKS

    def test_run_all_is_bounded(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - 500 * MINUTE, policy={"missed": "run_all"})
        planning.plan(NOON)
        rows = jobs.runs(job_id)
        assert [row.status for row in rows] == ["skipped"] + ["queued"] * 100
        assert rows[1].scheduled_for == NOON - 99 * MINUTE

    def test_the_deadline_counts_for_missed_ones(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(**TEN_MINUTES, policy={"missed": "run_all", "start_deadline_seconds": 900})
        planning.plan(NOW)
        assert statuses(jobs, job_id) == ["skipped"] * 4 + ["queued"] * 2

    def test_a_long_outage_leaves_a_hundred_rows(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - timedelta(days=365))
        [run] = planning.plan(NOON).runs
        rows = jobs.runs(job_id)
        assert run.scheduled_for == NOON
        assert len(rows) == planner.MISSED_TICKS_KEPT + 1
        assert rows[0].scheduled_for == NOON - 100 * MINUTE
        assert [row.reason for row in rows[:2]] == [planner.NOT_RUNNING + planner.NOT_LISTED, planner.NOT_RUNNING]

    def test_a_daily_job_runs_once_after_days(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - timedelta(days=3, hours=9), cron_expr="0 3 * * *")
        assert [run.scheduled_for for run in planning.plan(NOON).runs] == [NOON - 9 * HOUR]
        assert len(jobs.runs(job_id)) == 4
        assert planning.plan(NOON).jobs == 0

    def test_a_step_forward_of_the_clock_skips_none_silently(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        assert [run.scheduled_for for run in planning.plan(NOON + 5 * MINUTE).runs] == [NOON + 5 * MINUTE]
        rows = jobs.runs(job_id)
        assert [row.scheduled_for for row in rows] == [NOON + n * MINUTE for n in range(6)]
        assert {row.reason for row in rows[:-1]} == {planner.TOO_LATE}


class TestJitter:
    def test_a_start_is_put_off_the_same_way_whenever_it_is_asked(self, jobs: JobStore, planning: Planning) -> None:
        ids = [jobs.add(next_run_at=NOON, policy={"jitter_seconds": 600}) for _ in range(20)]
        planning.plan(NOON)
        rows = jobs.runs()
        offsets = [(row.start_at - NOON).total_seconds() for row in rows if row.start_at]
        assert all(0 <= offset < 600 for offset in offsets)
        assert len(set(offsets)) > 15
        assert {row.scheduled_for for row in rows} == {NOON}
        assert [timetable.spread(job_id, NOON, 600) for job_id in ids] == pytest.approx(offsets, abs=0.001)

    def test_it_waits_in_the_queue_until_then(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"jitter_seconds": 600})
        planning.plan(NOON, ahead=0.5)
        [row] = jobs.runs(job_id)
        assert row.start_at is not None
        assert planning.waiting(NOON).queue_due == row.start_at
        assert planning.claim_queued(row.start_at - timedelta(milliseconds=1)).jobs == 0
        assert [run.run_id for run in planning.claim_queued(row.start_at).runs] == [row.id]

    def test_the_deadline_counts_from_there(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON, policy={"jitter_seconds": 600, "start_deadline_seconds": 5})
        planning.plan(NOON)
        [row] = jobs.runs()
        assert row.start_at is not None
        assert planning.claim_queued(row.start_at + 4 * SECOND).runs


class TestReboot:
    def test_once_for_each_start_of_the_service(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(cron_expr="@reboot")
        jobs.add(cron_expr="@reboot", enabled=False)
        jobs.add(cron_expr="@hourly")
        assert planning.reboot(NOON).jobs == 1
        assert planning.reboot(NOON).jobs == 0
        [run] = planning.claim_queued(NOON).runs
        assert (run.job.id, run.trigger, run.scheduled_for) == (job_id, "reboot", NOON - 30 * MINUTE)
        planning.claim = replace(planning.claim, running_since=NOON)
        assert planning.reboot(NOON).jobs == 1

    def test_it_has_no_ticks(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(cron_expr="@reboot")
        planning.arm(NOON)
        assert jobs.job(job_id).next_run_at is None

    def test_pauses_hold_it_back(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(cron_expr="@reboot")
        jobs.pause()
        planning.reboot(NOON)
        assert planning.claim_queued(NOON).runs == []
        assert [run.reason for run in jobs.runs(job_id)] == ["The jobs of admin are paused"]


class TestWaiting:
    def test_nothing(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON, enabled=False)
        assert planning.waiting(NOON) == planner.Waiting(False, None, None, False)

    def test_the_earliest_tick(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON + HOUR)
        jobs.add(next_run_at=NOON)
        assert planning.waiting(NOON) == planner.Waiting(False, NOON, None, False)

    def test_something_to_arm(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add()
        assert planning.waiting(NOON).unarmed

    def test_the_first_run_that_waits(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add()
        for minutes in (2, 1):
            jobs.request(job_id, NOON + minutes * MINUTE)
        assert planning.waiting(NOON).queue_due == NOON + MINUTE

    def test_a_kill(self, jobs: JobStore, planning: Planning) -> None:
        run_id = jobs.add_run(jobs.add(), NOON, "running", service_id="planner")
        assert not planning.waiting(NOON).kills
        jobs.kill(run_id, NOON)
        assert planning.waiting(NOON).kills
