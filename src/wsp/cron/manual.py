"""Runs that somebody asks for. A row says what is wanted; the scheduler, which sees it at once, starts the command."""

from datetime import datetime, timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from wsp.cron.models import QUEUED, RUNNING, CronJob, JobRun
from wsp.cron.planning.rows import is_open
from wsp.cron.policy import Policy
from wsp.cron.service import get_job
from wsp.database import utc_now
from wsp.errors import Conflict, Unavailable
from wsp.heartbeat import alive
from wsp.owners import ACTIVE, OWNERS

MAX_WAITING = 100  # runs of one job

_ONE = timedelta(microseconds=1)


def request_run(session: Session, visible_to: str | None, job_id: int, *, requested_by: str) -> JobRun:
    """Have a job run now, also while it is disabled or paused. Returns the run, which waits to be started.

    Raises NotFound; Conflict when it would be skipped at once, or too many wait; Unavailable without a scheduler.
    """
    job = get_job(session, visible_to, job_id, change=True)
    now = utc_now()
    if not alive(session, "cron", now=now):
        raise Unavailable("No scheduler is running: a run would wait for it for ever")
    if session.scalar(select(OWNERS.c.status).where(OWNERS.c.username == job.owner)) != ACTIVE:
        raise Conflict("The owner of this job is disabled")
    _check_others(session, job, now)
    run = JobRun(
        job_id=job.id,
        scheduled_for=_own_instant(session, job, now),
        start_at=now,
        trigger="manual",
        requested_by=requested_by,
        status=QUEUED,
        reason="",
        attempt=1,
        output="",
        output_truncated=False,
        output_bytes=0,
        output_in_file=False,
    )
    session.add(run)
    session.flush()
    return run


def _check_others(session: Session, job: CronJob, now: datetime) -> None:
    of_job = and_(JobRun.job_id == job.id, is_open())
    if Policy.of(job.policy).overlap == "skip":
        # What waits for a time to come (a retry, a tick that is taken a moment ahead) is in nobody's way yet.
        due = or_(JobRun.status == RUNNING, JobRun.start_at <= now, JobRun.start_at.is_(None))
        # Not by id alone: SQLite would walk the job's whole log for that order.
        first = select(JobRun.id, JobRun.status).where(of_job, due).order_by(JobRun.start_at, JobRun.id).limit(1)
        other = session.execute(first).first()
        if other is not None:
            raise Conflict(
                f"Run {other.id} of this job is still going"
                if other.status == RUNNING
                else f"Run {other.id} of this job is about to start"
            )
    waiting = session.scalar(select(func.count()).select_from(JobRun).where(of_job, JobRun.status == QUEUED)) or 0
    if waiting >= MAX_WAITING:
        raise Conflict(f"{waiting} runs of this job wait already")


def _own_instant(session: Session, job: CronJob, now: datetime) -> datetime:
    """`now`, or the first instant after it that no other run of the job has. Whole seconds are for ticks."""
    instant = now
    while instant.microsecond == 0 or session.scalar(
        select(JobRun.id).where(JobRun.job_id == job.id, JobRun.scheduled_for == instant)
    ):
        instant += _ONE
    return instant
