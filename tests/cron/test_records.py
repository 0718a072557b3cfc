"""The end of a run, and what its job says of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from wsp.cron.processes import Process
from wsp.cron.records import Result, record_end, record_start

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def result(**values: Any) -> Result:
    return Result(**{"status": "succeeded", "started_at": NOON, "finished_at": NOON + SECOND, "exit_code": 0, **values})


def end(jobs: JobStore, run_id: int, job_id: int, what: Result, keep_runs: int = 100) -> bool:
    with jobs.database.transaction() as session:
        return record_end(session, run_id, job_id, what, keep_runs=keep_runs)


class TestRecordStart:
    def test_the_process_is_written_down(self, jobs: JobStore) -> None:
        run_id = jobs.add_run(jobs.add(), NOON, "running")
        with jobs.database.transaction() as session:
            record_start(session, run_id, Process(4711, 2**40), NOON + SECOND)
        [run] = jobs.runs()
        assert (run.pid, run.pid_started, run.started_at) == (4711, 2**40, NOON + SECOND)

    def test_a_run_that_has_ended_stays_as_it_is(self, jobs: JobStore) -> None:
        run_id = jobs.add_run(jobs.add(), NOON, "succeeded")
        with jobs.database.transaction() as session:
            record_start(session, run_id, Process(4711, 1), NOON)
        assert jobs.runs()[0].pid is None


class TestRecordEnd:
    def test_run_and_job_say_the_same(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = jobs.add_run(job_id, NOON, "running")
        what = result(duration_ms=1000, output="hello\n", output_truncated=True)
        assert end(jobs, run_id, job_id, what)
        [run] = jobs.runs()
        assert (run.status, run.exit_code, run.started_at, run.finished_at) == ("succeeded", 0, NOON, NOON + SECOND)
        assert (run.duration_ms, run.output, run.output_truncated) == (1000, "hello\n", True)
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (NOON, True)
        assert job.updated_at == job.created_at

    def test_a_failure_is_not_ok(self, jobs: JobStore) -> None:
        job_id = jobs.add(last_run_at=NOON - SECOND, last_run_ok=True)
        end(jobs, jobs.add_run(job_id, NOON, "running"), job_id, result(status="failed", exit_code=1))
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (NOON, False)

    def test_an_earlier_run_that_ends_later_does_not_count_as_the_last(self, jobs: JobStore) -> None:
        job_id = jobs.add(last_run_at=NOON + SECOND, last_run_ok=True)
        end(jobs, jobs.add_run(job_id, NOON, "running"), job_id, result(status="lost"))
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (NOON + SECOND, True)

    def test_writing_it_twice_does_no_harm(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = jobs.add_run(job_id, NOON, "running")
        assert end(jobs, run_id, job_id, result())
        assert end(jobs, run_id, job_id, result())

    def test_a_run_that_was_ended_by_somebody_else(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = jobs.add_run(job_id, NOON, "lost")
        assert not end(jobs, run_id, job_id, result())
        assert jobs.runs()[0].status == "lost"

    def test_a_deleted_job(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        run_id = jobs.add_run(job_id, NOON, "running")
        jobs.delete(job_id)
        assert not end(jobs, run_id, job_id, result())

    def test_old_runs_go(self, jobs: JobStore) -> None:
        job_id, other = jobs.add(), jobs.add()
        for minute in range(5, 0, -1):
            jobs.add_run(job_id, NOON - minute * 60 * SECOND)
            jobs.add_run(other, NOON - minute * 60 * SECOND)
        end(jobs, jobs.add_run(job_id, NOON, "running"), job_id, result(), keep_runs=3)
        assert [run.scheduled_for for run in jobs.runs(job_id)] == [NOON - n * 60 * SECOND for n in (2, 1, 0)]
        assert len(jobs.runs(other)) == 5
