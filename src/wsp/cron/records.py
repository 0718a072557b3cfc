"""What came of a run, written into its row and its job."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from wsp.cron.models import CronJob, JobRun
from wsp.cron.processes import Process
from wsp.cron.retention import prune

Status = Literal["succeeded", "failed", "killed", "lost"]


@dataclass(frozen=True)
class Result:
    """The end of a run. `exit_code` is None for a command that never started, or whose end nobody saw."""

    status: Status
    started_at: datetime | None
    finished_at: datetime
    reason: str = ""
    exit_code: int | None = None
    duration_ms: int | None = None
    output: str = ""
    output_truncated: bool = False

    @property
    def ok(self) -> bool:
        """Did the command do what it was asked for?"""
        return self.status == "succeeded"


def record_start(session: Session, run_id: int, process: Process, started_at: datetime) -> None:
    """Write down which process a run is, so that it can be found again should this scheduler die."""
    session.execute(
        update(JobRun)
        .where(JobRun.id == run_id, JobRun.status == "running")
        .values(pid=process.pid, pid_started=process.started, started_at=started_at)
    )


def record_end(session: Session, run_id: int, job_id: int, result: Result, *, keep_runs: int) -> bool:
    """Write the end of a run, and what its job says of its last run, together.

    Returns False when there is nothing to write to: the job was deleted, or the run was ended by somebody else.
    Writing it twice does no harm: a commit whose confirmation got lost is repeated.
    """
    ended = session.scalar(
        update(JobRun)
        .where(JobRun.id == run_id, JobRun.status == "running")
        .values(
            status=result.status,
            reason=result.reason,
            exit_code=result.exit_code,
            started_at=result.started_at,
            finished_at=result.finished_at,
            duration_ms=result.duration_ms,
            output=result.output,
            output_truncated=result.output_truncated,
        )
        .returning(JobRun.id),
        execution_options={"synchronize_session": False},
    )
    if ended is None:
        query = select(JobRun.id).where(
            JobRun.id == run_id, JobRun.status == result.status, JobRun.finished_at == result.finished_at
        )
        return session.scalar(query) is not None
    started_at = result.started_at or result.finished_at
    session.execute(
        update(CronJob)
        .where(CronJob.id == job_id, or_(CronJob.last_run_at.is_(None), CronJob.last_run_at <= started_at))
        .values(last_run_at=started_at, last_run_ok=result.ok),
        execution_options={"synchronize_session": False},
    )
    prune(session, job_id, keep_runs)
    return True
