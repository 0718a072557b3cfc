"""Starts and ends of runs, and what their jobs say of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.planning.work import End, Job, PlannedRun, Result
from wsp.cron.policy import Policy
from wsp.cron.runner.frames import GAP, STDERR, STDOUT, encode
from wsp.cron.runner.orders import Ended, Output, Started
from wsp.cron.server.records import Closing, Start, record_ends, record_starts, result_of

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def planned(run_id: int, job_id: int, **policy: Any) -> PlannedRun:
    job = Job(job_id, "admin", "nightly", "true", "", False, Policy(**policy))
    return PlannedRun(run_id, job, NOON, NOON, "schedule")


def result(**values: Any) -> Result:
    return Result(**{"status": "succeeded", "started_at": NOON, "finished_at": NOON + SECOND, "exit_code": 0, **values})


def claimed(jobs: JobStore, job_id: int, scheduled_for: datetime = NOON, status: str = "running") -> int:
    return jobs.add_run(job_id, scheduled_for, status, service_id="me")


def end(jobs: JobStore, *ends: tuple[int, int, Result], will_retry: bool = False) -> list[int]:
    """Write ends (run, job, result). Returns the runs that were written."""
    closings = [Closing(End(planned(run_id, job_id), what), "me") for run_id, job_id, what in ends]
    with jobs.database.transaction() as session:
        return [one.run.run_id for one in record_ends(session, closings, lambda _run, _result: will_retry)]


def ended(**values: Any) -> Ended:
    return Ended(**{"run_id": 1, "started_at": 100.0, "ended_at": 101.5, "duration_ms": 1500, "exit_code": 0, **values})


class TestResultOf:
    @pytest.mark.parametrize(
        ("said", "status", "reason"),
        [
            ({}, "succeeded", ""),
            ({"exit_code": 3}, "failed", ""),
            ({"exit_code": 143, "cause": "timeout"}, "timed_out", "It took longer than 7 s"),
            ({"exit_code": 143, "cause": "kill", "reason": "Killed by admin"}, "killed", "Killed by admin"),
            ({"exit_code": None, "trouble": "No such account"}, "failed", "No such account"),
            ({"output": Output(trouble="The disk is full")}, "succeeded", "The disk is full"),
        ],
    )
    def test_what_the_runner_says_becomes_a_status(self, said: dict[str, Any], status: str, reason: str) -> None:
        what = result_of(planned(1, 1, timeout_seconds=7), ended(**said))
        assert (what.status, what.reason) == (status, reason)

    def test_an_end_before_the_start_is_at_the_start(self) -> None:
        what = result_of(planned(1, 1), ended(ended_at=50.0))
        assert what.finished_at == what.started_at == datetime.fromtimestamp(100, UTC)


class TestRecordStarts:
    def start(self, jobs: JobStore, run_id: int) -> list[int]:
        start = Start(planned(run_id, 1), Started(run_id, 4711, 2**40, NOON.timestamp() + 1), "runner", "me")
        with jobs.database.transaction() as session:
            return [run.run_id for run in record_starts(session, [start])]

    def test_the_process_is_written_down(self, jobs: JobStore) -> None:
        run_id = claimed(jobs, jobs.add(), status="queued")
        assert self.start(jobs, run_id) == [run_id]
        [run] = jobs.runs()
        assert (run.status, run.runner_id, run.pid, run.pid_started) == ("running", "runner", 4711, 2**40)
        assert run.started_at == NOON + SECOND
        assert self.start(jobs, run_id) == []  # told once

    @pytest.mark.parametrize("values", [{"status": "succeeded"}, {"service_id": "another"}])
    def test_a_run_that_has_ended_or_is_anothers_stays_as_it_is(self, jobs: JobStore, values: dict[str, str]) -> None:
        run_id = jobs.add_run(jobs.add(), NOON, **{"status": "queued", "service_id": "me", **values})
        assert self.start(jobs, run_id) == []
        assert jobs.runs()[0].pid is None


class TestRecordEnds:
    def test_run_and_job_say_the_same(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = claimed(jobs, job_id)
        frames = encode([(STDOUT, b"hello\n"), (GAP, (5).to_bytes(8, "big")), (STDERR, b"bye\xff\n")])
        output = Output(frames, 16, in_file=True)
        what = result(duration_ms=1000, cpu_ms=7, memory_kb=4096, output=output, reason="why")
        assert end(jobs, (run_id, job_id, what)) == [run_id]
        [run] = jobs.runs()
        assert (run.status, run.exit_code, run.started_at, run.finished_at) == ("succeeded", 0, NOON, NOON + SECOND)
        assert (run.duration_ms, run.cpu_ms, run.memory_kb, run.reason) == (1000, 7, 4096, "why")
        assert run.output == "hello\n… 5 bytes left out …\nbye\N{REPLACEMENT CHARACTER}\n"
        assert (run.output_truncated, run.output_bytes, run.output_in_file) == (True, 16, True)
        assert run.output_frames == frames
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (NOON, True)
        assert job.updated_at == job.created_at

    def test_output_that_is_text_is_kept_once(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        end(jobs, (claimed(jobs, job_id), job_id, result(output=Output(encode([(STDOUT, b"hello\n")]), 6))))
        [run] = jobs.runs()
        assert (run.output, run.output_frames, run.output_truncated) == ("hello\n", None, False)

    def test_one_that_was_never_written_as_running(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        assert end(jobs, (claimed(jobs, job_id, status="queued"), job_id, result()))
        assert jobs.runs()[0].status == "succeeded"

    def test_many_together(self, jobs: JobStore) -> None:
        first, second = jobs.add(), jobs.add()
        runs = [(claimed(jobs, job, NOON + n * SECOND), job) for n in range(3) for job in (first, second)]
        assert end(jobs, *((run_id, job, result(status="failed")) for run_id, job in runs)) == [run for run, _ in runs]
        assert (jobs.job(first).failures_in_row, jobs.job(second).failures_in_row) == (3, 3)

    def test_failures_in_a_row(self, jobs: JobStore) -> None:
        job_id = jobs.add(failures_in_row=4)
        end(jobs, (claimed(jobs, job_id), job_id, result(status="timed_out", exit_code=143)))
        assert jobs.job(job_id).failures_in_row == 5
        end(jobs, (claimed(jobs, job_id, NOON + SECOND), job_id, result(status="failed")), will_retry=True)
        assert jobs.job(job_id).failures_in_row == 5  # not the last word yet
        end(jobs, (claimed(jobs, job_id, NOON + 2 * SECOND), job_id, result()))
        assert jobs.job(job_id).failures_in_row == 0

    def test_each_end_says_how_many_failures_it_makes(self, jobs: JobStore) -> None:
        job_id = jobs.add(failures_in_row=4)
        statuses = ("failed", "failed", "succeeded", "failed")
        closings = [
            Closing(End(planned(claimed(jobs, job_id, NOON + n * SECOND), job_id), result(status=status)), "me")
            for n, status in enumerate(statuses)
        ]
        with jobs.database.transaction() as session:
            ends = record_ends(session, closings, lambda run, _result: run is closings[0].end.run)
        assert [each.failures for each in ends] == [4, 5, 0, 1]  # the first one is tried again
        assert jobs.job(job_id).failures_in_row == 1

    def test_a_success_puts_the_alarm_off(self, jobs: JobStore) -> None:
        watched = jobs.add(policy={"expect_every": 60, "grace_seconds": 5})
        disabled = jobs.add(policy={"expect_every": 60}, enabled=False)
        unwatched = jobs.add()
        for job_id in (watched, disabled, unwatched):
            end(jobs, (claimed(jobs, job_id), job_id, result(status="failed")))
            assert jobs.job(job_id).expect_by is None
            end(jobs, (claimed(jobs, job_id, NOON + SECOND), job_id, result()))
        assert jobs.job(watched).expect_by == NOON + 66 * SECOND
        assert (jobs.job(disabled).expect_by, jobs.job(unwatched).expect_by) == (None, None)

    def test_an_earlier_run_that_ends_later_does_not_count_as_the_last(self, jobs: JobStore) -> None:
        job_id = jobs.add(last_run_at=NOON + SECOND, last_run_ok=True)
        end(jobs, (claimed(jobs, job_id), job_id, result(status="lost")))
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (NOON + SECOND, True)

    def test_writing_it_twice_does_no_harm(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = claimed(jobs, job_id)
        assert end(jobs, (run_id, job_id, result(status="failed"))) == [run_id]
        assert end(jobs, (run_id, job_id, result(status="failed"))) == []
        assert jobs.job(job_id).failures_in_row == 1

    @pytest.mark.parametrize("values", [{"status": "lost"}, {"service_id": "another"}])
    def test_a_run_that_somebody_else_has_ended_or_claimed(self, jobs: JobStore, values: dict[str, str]) -> None:
        job_id = jobs.add()
        run_id = jobs.add_run(job_id, NOON, **{"status": "running", "service_id": "me", **values})
        assert end(jobs, (run_id, job_id, result())) == []
        assert jobs.runs()[0].finished_at is None
        assert jobs.job(job_id).last_run_at is None

    def test_a_deleted_job(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = claimed(jobs, job_id)
        jobs.delete(job_id)
        assert end(jobs, (run_id, job_id, result())) == []
