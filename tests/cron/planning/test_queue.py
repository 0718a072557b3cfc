"""Runs that wait, and those that are claimed and have not been started."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.planning import queue

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
SOON = NOON - timedelta(seconds=0.4)
A_MOMENT = timedelta(microseconds=1)


class TestManualRuns:
    def test_it_is_claimed(self, jobs: JobStore, planning: Planning) -> None:
        run_id = jobs.request(jobs.add(), NOON + A_MOMENT)
        [run] = planning.claim_queued(NOON + SECOND).runs
        assert (run.run_id, run.trigger) == (run_id, "manual")
        row = jobs.run(run_id)
        assert (row.status, row.service_id, row.node, row.boot_id) == ("queued", "planner", "here", "boot")
        assert planning.claim_queued(NOON + SECOND).jobs == 0

    def test_neither_pauses_nor_a_disabled_job_hold_it_back(self, jobs: JobStore, planning: Planning) -> None:
        jobs.request(jobs.add(enabled=False), NOON)
        jobs.pause()
        jobs.maintenance(starts_at=NOON)
        assert planning.claim_queued(NOON).runs

    def test_a_disabled_owner_does(self, jobs: JobStore, planning: Planning) -> None:
        run_id = jobs.request(jobs.add(), NOON)
        jobs.set_owner(status="disabled")
        [end] = planning.claim_queued(NOON).ends
        assert (end.run.run_id, end.result.reason) == (run_id, "The owner of this job is disabled")
        row = jobs.run(run_id)
        assert (row.status, row.reason, row.finished_at) == ("skipped", end.result.reason, NOON)

    def test_the_deadline_does_not_count(self, jobs: JobStore, planning: Planning) -> None:
        jobs.request(jobs.add(policy={"start_deadline_seconds": 1}), NOON)
        assert planning.claim_queued(NOON + MINUTE).runs

    @pytest.mark.parametrize(
        ("overlap", "status", "kills"),
        [
            ("skip", "skipped", False),
            ("queue", "queued", False),
            ("allow", "queued", False),
            ("replace", "queued", True),
        ],
    )
    def test_overlap(self, jobs: JobStore, planning: Planning, overlap: str, status: str, kills: bool) -> None:
        job_id = jobs.add(policy={"overlap": overlap})
        going = jobs.add_run(job_id, NOON, "running", service_id="other")
        run_id = jobs.request(job_id, NOON + A_MOMENT)
        batch = planning.claim_queued(NOON + SECOND)
        assert jobs.run(run_id).status == status
        assert [run.run_id for run in batch.runs] == ([run_id] if overlap == "allow" else [])
        assert batch.kills is kills
        assert (jobs.run(going).kill_requested_at is not None) is kills
        # Whatever has been decided is not looked at again and again.
        assert planning.waiting(NOON + SECOND).queue_due is None
        assert planning.claim_queued(NOON + SECOND).jobs == 0

    def test_two_requests_are_two_runs_of_which_one_overlaps(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add()
        first, second = (jobs.request(job_id, NOON + n * A_MOMENT) for n in (1, 2))
        batch = planning.claim_queued(NOON + SECOND)
        assert [run.run_id for run in batch.runs] == [first]
        assert [(end.run.run_id, end.result.reason) for end in batch.ends] == [
            (second, f"Run {first} of this job was still going")
        ]

    def test_a_tick_at_hand_does_not_hold_it_back(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        [tick] = planning.plan(SOON, ahead=0.5).runs
        run_id = jobs.request(job_id, SOON)
        [run] = planning.claim_queued(SOON).runs
        assert run.run_id == run_id
        [end] = planning.settle([tick], NOON).ends
        assert end.result.reason == f"Run {run_id} of this job was still going"

    def test_that_of_another_scheduler_does(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"overlap": "queue"})
        planning.plan(SOON, ahead=0.5)
        run_id = jobs.request(job_id, SOON)
        planning.claim = replace(planning.claim, service_id="other")
        assert not planning.claim_queued(SOON).runs
        assert jobs.run(run_id).service_id == ""

    def test_one_that_has_to_wait_for_that_is_no_work(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        planning.plan(SOON, ahead=0.5)
        jobs.request(job_id, SOON)
        planning.claim = replace(planning.claim, service_id="other")
        assert planning.claim_queued(SOON).jobs == 0


class TestClaimQueued:
    def test_one_run_of_a_job_at_a_time(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(policy={"overlap": "queue"})
        ids = [jobs.request(job_id, NOON + n * A_MOMENT) for n in (1, 2, 3)]
        assert [run.run_id for run in planning.claim_queued(NOON + SECOND).runs] == ids[:1]

    def test_not_before_its_time(self, jobs: JobStore, planning: Planning) -> None:
        jobs.request(jobs.add(), NOON)
        assert planning.claim_queued(NOON - A_MOMENT).jobs == 0

    def test_a_job_that_was_disabled_meanwhile(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        planning.plan(NOON, places=0)
        jobs.change(job_id, enabled=False)
        [end] = planning.claim_queued(NOON + SECOND).ends
        assert end.result.reason == "The job was disabled before it could start"

    def test_a_deadline_that_has_passed_while_it_waited(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON, policy={"start_deadline_seconds": 5})
        planning.plan(NOON, places=0)
        [end] = planning.claim_queued(NOON + 6 * SECOND).ends
        assert end.result.reason == "The deadline has passed: it could not start within 5 s"

    def test_a_pause_that_has_come_while_it_waited(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        planning.plan(NOON, places=0)
        jobs.pause()
        assert [end.result.reason for end in planning.claim_queued(NOON).ends] == ["The jobs of admin are paused"]

    def test_a_tick_in_a_pause_that_jitter_carries_out_of_it(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"jitter_seconds": 600})
        jobs.pause(until=NOON + SECOND)
        planning.plan(SOON, ahead=0.5)
        [run] = jobs.runs(job_id)
        assert run.start_at
        assert run.start_at > NOON + SECOND
        [end] = planning.claim_queued(NOON + 11 * MINUTE).ends
        assert end.result.reason == "The jobs of admin are paused"

    def test_what_somebody_wants_killed_is_not_claimed(self, jobs: JobStore, planning: Planning) -> None:
        jobs.kill(jobs.request(jobs.add(), NOON), NOON)
        assert planning.claim_queued(NOON).jobs == 0
        assert planning.waiting(NOON).queue_due is None


class TestSettle:
    def test_several_ticks_of_one_job_start_in_their_order(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON, cron_expr="* * * * * *", policy={"overlap": "queue"})
        runs = planning.plan(SOON, ahead=1.5).runs
        assert [run.scheduled_for for run in runs] == [NOON, NOON + SECOND]
        batch = planning.settle(list(reversed(runs)), NOON + SECOND)
        assert [run.run_id for run in batch.runs] == [runs[0].run_id]
        waiting = jobs.run(runs[1].run_id)
        assert (waiting.status, waiting.service_id) == ("queued", "")

    def test_replace(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, policy={"overlap": "replace"})
        going = jobs.add_run(job_id, NOON - MINUTE, "running", service_id="planner")
        [run] = planning.plan(SOON, ahead=0.5).runs
        batch = planning.settle([run], NOON)
        assert (batch.runs, batch.ends, batch.kills) == ([], [], True)
        with jobs.database.reading() as session:
            assert queue.kills_wanted(session, "planner") == [(going, f"Replaced by run {run.run_id}", None)]

    def test_nothing_stands_in_its_way_any_more(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        going = jobs.add_run(job_id, NOON - MINUTE, "running", service_id="other")
        [run] = planning.plan(SOON, ahead=0.5).runs
        assert run.contended
        with jobs.database.transaction() as session:
            row = session.get_one(type(jobs.run(going)), going)
            row.status = "succeeded"
        assert [settled.run_id for settled in planning.settle([run], NOON).runs] == [run.run_id]

    def test_what_has_no_row_any_more_or_is_not_ours_is_left_out(self, jobs: JobStore, planning: Planning) -> None:
        gone, taken = (jobs.add(next_run_at=NOON) for _ in range(2))
        runs = planning.plan(SOON, ahead=0.5).runs
        jobs.delete(gone)
        planning.claim = replace(planning.claim, service_id="other")
        assert planning.settle(runs, NOON).jobs == 0
        assert [run.status for run in jobs.runs(taken)] == ["queued"]

    def test_a_kill_that_was_wanted_before_it_started(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(next_run_at=NOON)
        [run] = planning.plan(SOON, ahead=0.5).runs
        jobs.kill(run.run_id, SOON, "Killed by ann")
        [end] = planning.settle([run], NOON).ends
        assert (end.result.status, end.result.reason) == ("killed", "Killed by ann")
        assert jobs.run(run.run_id).status == "killed"


class TestRefresh:
    def ahead(self, jobs: JobStore, planning: Planning, **values: Any) -> tuple[int, Any]:
        job_id = jobs.add(next_run_at=NOON, **values)
        [run] = planning.plan(SOON, ahead=0.5).runs
        return job_id, run

    def test_nothing_has_changed(self, jobs: JobStore, planning: Planning) -> None:
        _, run = self.ahead(jobs, planning)
        assert planning.refresh([run]) == {}

    def test_another_command(self, jobs: JobStore, planning: Planning) -> None:
        job_id, run = self.ahead(jobs, planning)
        jobs.change(job_id, command="echo new", updated_at=SOON)
        changed = planning.refresh([run])[run.run_id]
        assert changed is not None
        assert changed.job.command == "echo new"
        assert planning.refresh([changed]) == {}

    @pytest.mark.parametrize(
        "values",
        [{"enabled": False}, {"cron_expr": "30 * * * *"}, {"timezone": "Asia/Kathmandu", "cron_expr": "0 * * * *"}],
    )
    def test_it_is_no_tick_any_more(self, jobs: JobStore, planning: Planning, values: dict[str, Any]) -> None:
        job_id, run = self.ahead(jobs, planning)
        jobs.switch(job_id, SOON, **values)
        changed = planning.refresh([run])[run.run_id]
        assert changed is not None
        assert changed.contended
        assert len(jobs.runs(job_id)) == 1  # it may be starting
        batch = planning.settle([changed], NOON)
        assert (batch.runs, batch.ends) == ([], [])
        assert jobs.runs(job_id) == []

    def test_another_expression_that_has_this_tick_too(self, jobs: JobStore, planning: Planning) -> None:
        job_id, run = self.ahead(jobs, planning)
        jobs.switch(job_id, SOON, cron_expr="0 12 * * *")
        planning.arm(SOON)
        assert planning.refresh([run])[run.run_id] is not None
        assert planning.plan(SOON, ahead=0.5).runs == []
        assert len(jobs.runs(job_id)) == 1

    def test_switched_off_and_on_again(self, jobs: JobStore, planning: Planning) -> None:
        job_id, run = self.ahead(jobs, planning)
        jobs.switch(job_id, SOON, enabled=False)
        planning.arm(SOON)
        off = planning.refresh([run])[run.run_id]
        assert off is not None
        jobs.switch(job_id, SOON + 100 * timedelta(milliseconds=1), enabled=True)
        planning.arm(NOON - timedelta(milliseconds=200))
        on = planning.refresh([off])[run.run_id]
        assert on is not None
        assert planning.plan(NOON, ahead=0.5).runs == []
        assert [again.run_id for again in planning.settle([on], NOON).runs] == [run.run_id]

    def test_a_job_that_is_gone(self, jobs: JobStore, planning: Planning) -> None:
        job_id, run = self.ahead(jobs, planning)
        jobs.delete(job_id)
        assert planning.refresh([run]) == {run.run_id: None}

    def test_a_pause_has_it_settled(self, jobs: JobStore, planning: Planning) -> None:
        _, run = self.ahead(jobs, planning)
        jobs.pause()
        changed = planning.refresh([run])[run.run_id]
        assert changed is not None
        assert changed.contended
        assert planning.refresh([changed]) == {}
        assert planning.settle([changed], NOON).ends[0].result.reason == "The jobs of admin are paused"

    def test_a_disabled_owner_too(self, jobs: JobStore, planning: Planning) -> None:
        _, run = self.ahead(jobs, planning)
        jobs.set_owner(status="disabled")
        assert (
            planning.settle([changed for changed in planning.refresh([run]).values() if changed], NOON)
            .ends[0]
            .result.reason.startswith("The owner")
        )


class TestKills:
    def test_what_waits_is_ended(self, jobs: JobStore, planning: Planning) -> None:
        run_id = jobs.request(jobs.add(), NOON)
        jobs.kill(run_id, NOON, "Killed by ann")
        with jobs.database.transaction() as session:
            [end] = queue.cancel_killed(session, NOON + SECOND)
        assert (end.run.run_id, end.result.status, end.result.reason) == (run_id, "killed", "Killed by ann")
        row = jobs.run(run_id)
        assert (row.status, row.reason, row.finished_at) == ("killed", "Killed by ann", NOON + SECOND)
        job = jobs.job(row.job_id)
        assert (job.last_run_at, job.last_run_ok, job.failures_in_row) == (NOON + SECOND, False, 1)
        with jobs.database.transaction() as session:
            assert queue.cancel_killed(session, NOON) == []

    def test_what_runs_is_its_schedulers_business(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        mine = jobs.add_run(job_id, NOON, "running", service_id="planner")
        claimed = jobs.add_run(job_id, NOON + SECOND, "queued", service_id="planner")
        theirs = jobs.add_run(job_id, NOON + 2 * SECOND, "running", service_id="other")
        over = jobs.add_run(job_id, NOON + 3 * SECOND, "failed", service_id="planner")
        for run_id in (mine, claimed, theirs, over):
            jobs.kill(run_id, NOON, "Stop")
        with jobs.database.transaction() as session:
            assert queue.cancel_killed(session, NOON) == []
            assert queue.kills_wanted(session, "planner") == [(mine, "Stop", None), (claimed, "Stop", None)]
