"""What is due: one decision for every tick of every job. No loop and no clock here: time is an argument.

Each step takes a session and `now`, does a bounded amount of work, and returns what it did; the caller commits.
Several schedulers may work on one database: a tick belongs to whoever inserts its row.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Insert, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from wsp.cron.expression import LONGEST_STEP_BACK, ExpressionError, Schedule, parse
from wsp.cron.models import CronJob, JobRun
from wsp.cron.retention import prune
from wsp.owners import ACTIVE, OWNERS

BATCH_JOBS = 100  # in one transaction: other writers wait for it on SQLite
MISSED_TICKS_KEPT = 100

TRIGGER = "schedule"

OWNER_DISABLED = "The owner of this job is disabled"
NOT_RUNNING = "The scheduler was not running"
TOO_LATE = "The scheduler came too late: the clock was set forward, the machine slept, or all places were taken"

_OWNER_DISABLED = exists().where(OWNERS.c.username == CronJob.owner, OWNERS.c.status != ACTIVE)
_RUNNING = exists().where(JobRun.job_id == CronJob.id, JobRun.status == "running")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """Who plans: written into the rows of its runs."""

    service_id: str
    node: str
    boot_id: str
    running_since: datetime  # ticks before this were missed because no scheduler ran


@dataclass(frozen=True)
class PlannedRun:
    """A run, and what has to be known of its job to start it and to tell of its end."""

    run_id: int
    job_id: int
    owner: str
    name: str
    command: str
    email_on_complete: str
    email_on_error: bool
    scheduled_for: datetime

    @classmethod
    def of(cls, job: CronJob, run_id: int, scheduled_for: datetime) -> "PlannedRun":
        """The run of a tick of `job`."""
        return cls(
            run_id=run_id,
            job_id=job.id,
            owner=job.owner,
            name=job.name,
            command=job.command,
            email_on_complete=job.email_on_complete,
            email_on_error=job.email_on_error,
            scheduled_for=scheduled_for,
        )


@dataclass(frozen=True)
class Batch:
    """What `plan` did: the runs to start, and how many due jobs it took. More may be due unless there were none."""

    runs: list[PlannedRun]
    jobs: int


@dataclass(frozen=True)
class Waiting:
    """What there is for a scheduler to do."""

    unarmed: bool
    next_due: datetime | None  # the earliest next_run_at, in the past when a job waits for its turn


def waiting(session: Session) -> Waiting:
    """Look, in one cheap query, whether there is anything to do. Writes nothing."""
    unarmed = select(CronJob.id).where(CronJob.revision != CronJob.armed_revision).exists()
    earliest = select(func.min(CronJob.next_run_at)).where(CronJob.enabled).scalar_subquery()
    row = session.execute(select(unarmed, earliest)).one()
    return Waiting(bool(row[0]), row[1])


def next_due_after(session: Session, instant: datetime) -> datetime | None:
    """The earliest next_run_at later than `instant`."""
    return session.scalar(select(func.min(CronJob.next_run_at)).where(CronJob.enabled, CronJob.next_run_at > instant))


def arm(session: Session, now: datetime, zone: ZoneInfo, *, limit: int = BATCH_JOBS) -> list[int]:
    """Give `next_run_at`, counted from now, to jobs that were created or changed. Returns their ids.

    A job that is disabled, or whose stored expression is none, gets null and stays quiet until it is changed again.
    """
    jobs = session.scalars(
        select(CronJob)
        .where(CronJob.revision != CronJob.armed_revision)
        .order_by(CronJob.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    armed = []
    for job in jobs:
        next_run_at = _first_tick(session, job, now, zone) if job.enabled else None
        # The revision that was read decides: a change that came in between is armed by the next call.
        unchanged = CronJob.id == job.id, CronJob.revision == job.revision
        if _update(session, *unchanged, next_run_at=next_run_at, armed_revision=job.revision):
            armed.append(job.id)
    return armed


def rearm(session: Session, now: datetime, zone: ZoneInfo, *, after_id: int = 0, limit: int = BATCH_JOBS) -> int | None:
    """Count `next_run_at` of waiting jobs anew, for a clock that was corrected or a time zone that was changed.

    Takes the jobs whose id is above `after_id`; returns the last one's, None when there are no more.
    A tick that is overdue is left to `plan`.
    """
    jobs = session.scalars(
        select(CronJob)
        .where(CronJob.id > after_id, CronJob.enabled, CronJob.next_run_at > now)
        .where(CronJob.revision == CronJob.armed_revision)
        .order_by(CronJob.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for job in jobs:
        next_run_at = _first_tick(session, job, now, zone)
        if next_run_at != job.next_run_at:
            _update(session, CronJob.id == job.id, CronJob.revision == job.revision, next_run_at=next_run_at)
    return jobs[-1].id if jobs else None


def skip_barred(
    session: Session, now: datetime, zone: ZoneInfo, claim: Claim, *, keep_runs: int, limit: int = BATCH_JOBS
) -> int:
    """Record as skipped the due ticks of jobs that still run, or whose owner is disabled, free places or not.

    Returns the number of jobs.
    """
    jobs = _due(session, now, _RUNNING | _OWNER_DISABLED, limit)
    for job in jobs:
        run_id = session.scalar(
            select(JobRun.id).where(JobRun.job_id == job.id, JobRun.status == "running").order_by(JobRun.id).limit(1)
        )
        reason = OWNER_DISABLED if run_id is None else f"Run {run_id} of this job was still going"
        for tick in _ticks(job, now, zone):
            _insert_skipped(session, job, tick, now, claim, reason)
        _move_on(session, job, now, zone)
        prune(session, job.id, keep_runs)
    return len(jobs)


def plan(
    session: Session, now: datetime, zone: ZoneInfo, claim: Claim, *, keep_runs: int, limit: int = BATCH_JOBS
) -> Batch:
    """Decide the due ticks of up to `limit` jobs that `skip_barred` leaves, those first that have waited longest.

    Of several ticks that were missed the newest runs, late; the older ones, MISSED_TICKS_KEPT at most, are
    recorded as skipped. The returned runs have rows that say `running`: start them once the caller has committed.
    """
    planned = []
    jobs = _due(session, now, ~_RUNNING & ~_OWNER_DISABLED, limit)
    for job in jobs:
        ticks = _ticks(job, now, zone)
        for tick in ticks[:-1]:
            reason = NOT_RUNNING if tick < claim.running_since else TOO_LATE
            _insert_skipped(session, job, tick, now, claim, reason)
        run_id = _insert(session, job, ticks[-1], claim, status="running", started_at=now) if ticks else None
        _move_on(session, job, now, zone)
        if len(ticks) > 1:
            prune(session, job.id, keep_runs)
        if run_id is not None:
            planned.append(PlannedRun.of(job, run_id, ticks[-1]))
    return Batch(planned, len(jobs))


def _due(session: Session, now: datetime, condition: ColumnElement[bool], limit: int) -> Sequence[CronJob]:
    return session.scalars(
        select(CronJob)
        .where(CronJob.enabled, CronJob.next_run_at <= now, CronJob.revision == CronJob.armed_revision, condition)
        .order_by(CronJob.next_run_at, CronJob.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()


def _ticks(job: CronJob, now: datetime, zone: ZoneInfo) -> list[datetime]:
    """The undecided ticks of a due job, oldest first: `next_run_at`, and what has come due since."""
    schedule = _schedule(job)
    if schedule is None or job.next_run_at is None:
        return []
    count = MISSED_TICKS_KEPT + 1
    return [job.next_run_at, *schedule.due_between(job.next_run_at, now, zone, count)][-count:]


def _move_on(session: Session, job: CronJob, now: datetime, zone: ZoneInfo) -> None:
    schedule = _schedule(job)
    next_run_at = schedule.next_after(max(now, job.next_run_at or now), zone) if schedule else None
    _update(session, CronJob.id == job.id, CronJob.revision == job.revision, next_run_at=next_run_at)


def _first_tick(session: Session, job: CronJob, now: datetime, zone: ZoneInfo) -> datetime | None:
    schedule = _schedule(job)
    if schedule is None:
        return None
    decided = session.scalar(select(func.max(JobRun.scheduled_for)).where(JobRun.job_id == job.id))
    # A clock that was set back further has been corrected; until then its old ticks have had their turn.
    if decided is not None and now < decided <= now + LONGEST_STEP_BACK:
        now = decided
    return schedule.next_after(now, zone)


def _schedule(job: CronJob) -> Schedule | None:
    try:
        return parse(job.cron_expr)
    except ExpressionError as error:
        # The API lets none in. One that came in another way must not keep the other jobs from running.
        logger.error("job %s is not scheduled: %s", job.id, error)
        return None


def _update(session: Session, *where: ColumnElement[bool], **values: Any) -> bool:
    # Plain SQL, not the ORM's unit of work: `updated_at` is the user's, and the condition has to decide.
    statement = update(CronJob).where(*where).values(**values).returning(CronJob.id)
    return session.scalar(statement, execution_options={"synchronize_session": False}) is not None


def _insert_skipped(
    session: Session, job: CronJob, tick: datetime, now: datetime, claim: Claim, reason: str
) -> int | None:
    return _insert(session, job, tick, claim, status="skipped", reason=reason, finished_at=now)


def _insert(session: Session, job: CronJob, tick: datetime, claim: Claim, **values: Any) -> int | None:
    """Claim a tick. Returns the id of its row, None when somebody has decided it before."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement: Insert = (
        insert(JobRun)
        .values(
            job_id=job.id,
            scheduled_for=tick,
            trigger=TRIGGER,
            service_id=claim.service_id,
            node=claim.node,
            boot_id=claim.boot_id,
            **values,
        )
        .on_conflict_do_nothing(index_elements=[JobRun.job_id, JobRun.scheduled_for])
        .returning(JobRun.id)
    )
    run_id: int | None = session.scalar(statement)
    return run_id
