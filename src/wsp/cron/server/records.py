"""Starts and ends of runs, written into their rows and their jobs: many in one transaction.

Writing the same twice does no harm: a commit whose confirmation got lost is repeated.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.cron.models import FAILED, KILLED, OPEN, QUEUED, RUNNING, SUCCEEDED, TIMED_OUT
from wsp.cron.planning.bulk import update_rows
from wsp.cron.planning.rows import JOBS, RUNS, JobRow
from wsp.cron.planning.work import End, PlannedRun, Result
from wsp.cron.policy import Policy
from wsp.cron.runner.frames import STDERR, encode, needs_frames, readable
from wsp.cron.runner.orders import Ended, Output, Started

LONGEST_REASON = 300  # characters that the column holds

NOT_WRITTEN = "What it wrote, and what it used, could not be recorded"

_JOB_COLUMNS = tuple(
    JOBS.c[name] for name in ("id", "enabled", "policy", "last_run_at", "last_run_ok", "failures_in_row", "expect_by")
)


@dataclass(frozen=True)
class Start:
    """A run whose command was started by a runner of the scheduler `claimed_by`."""

    run: PlannedRun
    started: Started
    runner_id: str
    claimed_by: str


@dataclass(frozen=True)
class Closing:
    """The end of a run that is to be written, as long as the row is claimed by the scheduler `claimed_by`."""

    end: End
    claimed_by: str

    def barely(self) -> "Closing":
        """The same without the output and the numbers."""
        result = self.end.result
        bare = Result(result.status, result.started_at, result.finished_at, NOT_WRITTEN, result.exit_code)
        return replace(self, end=replace(self.end, result=bare))


def result_of(run: PlannedRun, ended: Ended) -> Result:
    """What the runner says of a command's end, as it is recorded."""
    started_at = _instant(ended.started_at)
    finished_at = _instant(ended.ended_at) or datetime.now(UTC)
    output, reason = ended.output, ended.reason or ended.trouble
    if ended.trouble:
        status = FAILED
        output = output if output.frames else Output(frames=encode([(STDERR, ended.trouble.encode())]))
    elif ended.cause == "timeout":
        status = TIMED_OUT
        reason = reason or f"It took longer than {run.job.policy.timeout_seconds} s"
    elif ended.cause == "kill":
        status = KILLED
    else:
        status = SUCCEEDED if ended.exit_code == 0 else FAILED
    return Result(
        status=status,  # type: ignore[arg-type]
        started_at=started_at,
        finished_at=max(finished_at, started_at) if started_at else finished_at,  # the clock may have been set back
        reason=(reason or output.trouble)[:LONGEST_REASON],
        exit_code=ended.exit_code,
        duration_ms=ended.duration_ms,
        cpu_ms=ended.cpu_ms,
        memory_kb=ended.memory_kb,
        output=output,
    )


def record_starts(session: Session, starts: Sequence[Start]) -> list[PlannedRun]:
    """Write down which process each run is. Returns the runs that did not have this written before."""
    rows = _rows(session, (start.run.run_id for start in starts))
    fresh = []
    for start in starts:
        row = rows.get(start.run.run_id)
        if row is not None and row.status == QUEUED and row.service_id == start.claimed_by:
            fresh.append(start)
    if fresh:
        update_rows(session, RUNS, [_start_values(start) for start in fresh], by=["id"])
    return [start.run for start in fresh]


def record_ends(
    session: Session,
    closings: Sequence[Closing],
    will_retry: Callable[[PlannedRun, Result], bool],
) -> list[End]:
    """Write ends of runs, and what their jobs say of their last runs. Returns those that were not written before.

    What is not among them has nothing to be written to: its job was deleted, or somebody else has ended it, or has
    claimed it since. `will_retry` says whether an end is not the last word about its tick.
    """
    jobs = lock_jobs(session, (closing.end.run.job.id for closing in closings))
    rows = _rows(session, (closing.end.run.run_id for closing in closings))
    failures = {job_id: job.failures_in_row for job_id, job in jobs.items()}
    fresh = []
    for closing in closings:
        run, result = closing.end.run, closing.end.result
        row = rows.get(run.run_id)
        if row is not None and row.status in OPEN and row.service_id == closing.claimed_by:
            again = will_retry(run, result)
            failures[run.job.id] = 0 if result.ok else failures[run.job.id] + (not again)
            fresh.append(replace(closing.end, will_retry=again, failures=failures[run.job.id]))
    if fresh:
        update_rows(session, RUNS, [_end_values(end) for end in fresh], by=["id"])
        by_job: dict[int, list[End]] = {}
        for end in fresh:
            by_job.setdefault(end.run.job.id, []).append(end)
        moved = [_job_values(jobs[job_id], ends) for job_id, ends in by_job.items()]
        update_rows(session, JOBS, moved, by=["id"])
    return fresh


def lock_jobs(session: Session, job_ids: Iterable[int]) -> Mapping[int, JobRow]:
    """What the jobs say now, and until the commit. Before their runs, and in this order, as everybody takes locks."""
    query = select(*_JOB_COLUMNS).where(JOBS.c.id.in_(sorted(set(job_ids)))).order_by(JOBS.c.id)
    # No lock that a new run's reference to its job would wait for.
    return {row.id: row for row in session.connection().execute(query.with_for_update(key_share=True))}


def _rows(session: Session, run_ids: Iterable[int]) -> Mapping[int, JobRow]:
    """What the rows say now. They stay so until the end of the transaction."""
    wanted = sorted(set(run_ids))
    query = select(RUNS.c.id, RUNS.c.status, RUNS.c.service_id).where(RUNS.c.id.in_(wanted)).order_by(RUNS.c.id)
    return {row.id: row for row in session.connection().execute(query.with_for_update())}


def _start_values(start: Start) -> dict[str, Any]:
    return {
        "id": start.run.run_id,
        "status": RUNNING,
        "runner_id": start.runner_id,
        "pid": start.started.pid,
        "pid_started": start.started.pid_started,
        "started_at": _instant(start.started.at),
    }


def _end_values(end: End) -> dict[str, Any]:
    result, output = end.result, end.result.output
    text, truncated = readable(output.frames) if output.frames else ("", False)
    return {
        "id": end.run.run_id,
        "status": result.status,
        "reason": result.reason,
        "exit_code": result.exit_code,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "duration_ms": result.duration_ms,
        "cpu_ms": result.cpu_ms,
        "memory_kb": result.memory_kb,
        "output": text,
        "output_truncated": truncated or output.in_file,
        "output_bytes": output.total_bytes,
        "output_frames": output.frames if output.frames and needs_frames(output.frames) else None,
        "output_in_file": output.in_file,
    }


def _job_values(job: JobRow, ends: Sequence[End]) -> dict[str, Any]:
    last_run_at, last_run_ok = job.last_run_at, job.last_run_ok
    expect_by = job.expect_by
    policy = Policy.of(job.policy)  # of now: what is expected of a job may have changed since the run began
    for end in ends:
        result = end.result
        if last_run_at is None or last_run_at <= _began(end):
            last_run_at, last_run_ok = _began(end), result.ok
        if result.ok and policy.expect_every and job.enabled:
            by = result.finished_at + timedelta(seconds=policy.expect_every + policy.grace_seconds)
            expect_by = max(expect_by or by, by)
    return {
        "id": job.id,
        "last_run_at": last_run_at,
        "last_run_ok": last_run_ok,
        "failures_in_row": ends[-1].failures,
        "expect_by": expect_by,
    }


def _began(end: End) -> datetime:
    return end.result.started_at or end.result.finished_at


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
