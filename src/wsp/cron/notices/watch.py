"""What no end of a run tells: jobs that have not succeeded in time, and runs that go on for unusually long.

Any process may watch, several at once: an alarm is raised by the one whose update or insert is first. So a scheduler
that is down is noticed by the API process.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Select, Text, cast, func, select, update
from sqlalchemy.orm import Session

from wsp.cron.models import RUNNING, CronJob, JobRun, Pause
from wsp.cron.notices import mail, outbox
from wsp.cron.notices.alerts import OVERDUE, UNUSUAL_SECONDS, told_unusual, unusual_data, usual_duration
from wsp.cron.notices.mail import Unusual
from wsp.cron.notices.outbox import Owed
from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.rows import is_open
from wsp.cron.planning.work import Job
from wsp.cron.policy import Policy
from wsp.cron.schedule.zones import zone_for
from wsp.heartbeat import alive
from wsp.owners import ACTIVE, OWNERS
from wsp.settings import Settings
from wsp.webhooks.service import Listeners

JOBS_AT_ONCE = 100
SOON = timedelta(minutes=1)
FARTHEST = timedelta(days=366)


_WATCHED = (
    select(JobRun.id, JobRun.job_id, JobRun.started_at)
    .join(CronJob, CronJob.id == JobRun.job_id)
    .where(
        is_open(JobRun.__table__),
        JobRun.status == RUNNING,
        CronJob.policy.is_not(None),
        cast(CronJob.policy, Text).contains("alert_duration_factor"),
    )
)


@dataclass(frozen=True)
class Watched:
    """A run that goes on, of a job that wants to know when that is unusually long."""

    run_id: int
    job_id: int
    started_at: datetime


# --- Overdue ----------------------------------------------------------------------------------------------------


def next_overdue() -> Select[datetime | None]:
    """When the next job is overdue, unless it succeeds before."""
    # Nothing about `enabled`: SQLite would take the index of that, and sort every job there is.
    return select(func.min(CronJob.expect_by))


def raise_overdue(session: Session, settings: Settings, now: datetime) -> int:
    """Raise the alarm for jobs that have not succeeded in time, once until they do. Returns how many there were.

    One that stands still on purpose, or whose owner is disabled, gets its whole time anew instead.
    """
    due = session.execute(
        select(CronJob, OWNERS.c.email, OWNERS.c.status)
        .join(OWNERS, OWNERS.c.username == CronJob.owner)
        .where(CronJob.expect_by <= now)
        .order_by(CronJob.expect_by)
        .limit(JOBS_AT_ONCE)
        .with_for_update(skip_locked=True, of=CronJob)
    ).all()
    if not due:
        return 0
    pauses = Pauses.load(session, settings.zone)
    listeners = Listeners(session, {job.owner for job, _, _ in due})
    has_scheduler = alive(session, "cron", now=now)
    owed: list[Owed] = []
    for row, email, owner_status in due:
        expected = row.expect_by
        if not row.enabled:
            _set_expected(session, row, expect_by=None)
            continue
        if owner_status != ACTIVE or pauses.reason_for(row.owner, row.tags, now):
            pause = session.get(Pause, row.owner)
            begin = max(now, pause.until) if pause is not None and pause.until is not None else now
            # A pause may end in a year that no time can be added to: it is looked at again until then.
            _set_expected(session, row, expect_by=min(begin, now + FARTHEST) + _patience(row))
            continue
        if not _set_expected(session, row, expect_by=None, alarm=OVERDUE):
            continue
        owed.append(_overdue_mail(row, email, expected, now, settings, has_scheduler=has_scheduler))
        data = partial(_overdue_data, row, expected, has_scheduler=has_scheduler)
        listeners.tell(row.owner, "job.overdue", data)
    outbox.put(session, settings, owed, now)
    listeners.write()
    return len(due)


def begin_anew(session: Session, owner: str, now: datetime) -> None:
    """Give an owner's jobs their whole time from now on: they stood still until now."""
    waiting = select(CronJob).where(CronJob.owner == owner, CronJob.expect_by.is_not(None)).order_by(CronJob.id)
    for row in session.scalars(waiting.with_for_update(key_share=True)):
        row.expect_by = now + _patience(row)
    session.flush()


def _patience(job: CronJob) -> timedelta:
    """How long a job may take for its next success."""
    policy = Policy.of(job.policy)
    return timedelta(seconds=max(1, policy.expect_every + policy.grace_seconds))


def _overdue_mail(
    row: CronJob, email: str | None, expected: datetime, now: datetime, settings: Settings, *, has_scheduler: bool
) -> Owed:
    zone = zone_for(row.timezone, settings.zone)
    late = now - expected
    more = {
        "Expected by": mail.shown(expected, zone),
        "Late by": mail.seconds(late) if late > SOON else "",  # the alarm itself was late
        "Last run": _last_run(row, zone),
        "Next run": mail.shown(row.next_run_at, zone),
        "Cron service": "" if has_scheduler else "it does not run",
    }
    job = _job(row)
    text = mail.about_overdue(job, more, settings.public_url)
    return Owed(job.id, job.name, None, "overdue", job.email_on_complete or email or "", text, expected)


def _overdue_data(row: CronJob, expected: datetime, *, has_scheduler: bool) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "name": row.name,
        "expected_by": expected.isoformat(timespec="seconds"),
        "last_run_at": row.last_run_at.isoformat(timespec="seconds") if row.last_run_at else None,
        "last_run_ok": row.last_run_ok,
        "scheduler_running": has_scheduler,
    }


def _set_expected(session: Session, job: CronJob, **values: object) -> bool:
    """Change what is expected of a job, unless that was changed since it was read."""
    changed = session.execute(
        update(CronJob)
        .where(CronJob.id == job.id, CronJob.expect_by == job.expect_by)
        .values(**values)
        .returning(CronJob.id),
        execution_options={"synchronize_session": False},
    )
    return changed.first() is not None


def _last_run(job: CronJob, zone: ZoneInfo) -> str:
    if job.last_run_at is None:
        return "never"
    return f"{mail.shown(job.last_run_at, zone)}, {'succeeded' if job.last_run_ok else 'did not succeed'}"


# --- Unusually long ---------------------------------------------------------------------------------------------


def watched_runs(session: Session) -> list[Watched]:
    """The runs that go on now, of jobs that want to know of unusual durations."""
    rows = session.connection().execute(_WATCHED)
    return [Watched(run_id, job_id, at) for run_id, job_id, at in rows if at is not None]


class Durations:
    """The runs that go on and are watched, and when each has become unusually long. Belongs to one thread."""

    def __init__(self) -> None:
        self._due: dict[int, datetime | None] = {}

    def due(self, session: Session, runs: Collection[Watched], now: datetime) -> list[Watched]:
        """Those of the runs that go on for too long by now, and were not given out before."""
        for gone in self._due.keys() - {run.run_id for run in runs}:
            del self._due[gone]
        for run in runs:
            if run.run_id not in self._due:
                self._due[run.run_id] = _unusual_from(session, run)
        late = [run for run in runs if self._is_late(run, now)]
        for run in late:  # the job may have been changed since
            self._due[run.run_id] = _unusual_from(session, run)
        return [run for run in late if self._is_late(run, now)]

    def _is_late(self, run: Watched, now: datetime) -> bool:
        at = self._due[run.run_id]
        return at is not None and at <= now

    def done(self, run: Watched) -> None:
        """It was told of."""
        self._due[run.run_id] = None


def raise_unusual(session: Session, settings: Settings, watched: Watched, now: datetime) -> bool:
    """Tell that a run goes on for unusually long, unless somebody did, or it is over. Returns whether it was told."""
    found = session.execute(
        select(CronJob, OWNERS.c.email)
        .join(OWNERS, OWNERS.c.username == CronJob.owner)
        .where(CronJob.id == watched.job_id)
        .with_for_update(of=CronJob)
    ).first()
    still = select(JobRun.id).where(JobRun.id == watched.run_id, JobRun.status == RUNNING)
    if found is None or session.scalar(still) is None:
        return False
    if told_unusual(session, watched.job_id, watched.run_id, watched.started_at):
        return False
    usual = usual_duration(session, watched.job_id, but=watched.run_id)
    if usual is None:
        return False
    job, email = _job(found[0]), found[1]
    unusual = Unusual(now - watched.started_at, usual)
    text = mail.about_running(
        job,
        watched.run_id,
        watched.started_at,
        unusual,
        zone_for(found[0].timezone, settings.zone),
        settings.public_url,
    )
    recipient = job.email_on_complete or email or ""
    outbox.put(session, settings, [Owed(job.id, job.name, watched.run_id, "unusual", recipient, text, now)], now)
    listeners = Listeners(session, (job.owner,))
    listeners.tell(job.owner, "job.unusual", lambda: unusual_data(job, watched.run_id, unusual, running=True))
    listeners.write()
    return True


def _unusual_from(session: Session, run: Watched) -> datetime | None:
    factor = Policy.of(session.scalar(select(CronJob.policy).where(CronJob.id == run.job_id))).alert_duration_factor
    usual = usual_duration(session, run.job_id, but=run.run_id) if factor > 1 else None
    if usual is None:
        return None
    return run.started_at + max(usual * factor, usual + timedelta(seconds=UNUSUAL_SECONDS))


def _job(row: CronJob) -> Job:
    return Job(
        id=row.id,
        owner=row.owner,
        name=row.name,
        command=row.command,
        email_on_complete=row.email_on_complete,
        email_on_error=row.email_on_error,
        policy=Policy.of(row.policy),
    )
