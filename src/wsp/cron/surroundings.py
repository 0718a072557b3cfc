"""What an answer says of jobs beyond their own rows: asked for once for all of them, not once for each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from wsp.cron.models import QUEUED, CronJob, Follows, JobRun, Pause
from wsp.cron.pauses import Pauses
from wsp.database import utc_now
from wsp.heartbeat import alive

ASKED_AT_ONCE = 5000  # ids in one question


@dataclass(frozen=True)
class Surroundings:
    """What surrounds some jobs at a moment."""

    scheduler_alive: bool
    links: Mapping[int, Sequence[tuple[int, str]]]
    claimed: Mapping[int, datetime]  # ticks ahead that a scheduler holds already
    paused_owners: Collection[str]
    pauses: Pauses

    def parents(self, job: CronJob) -> Sequence[tuple[int, str]]:
        """The jobs that it runs after, by id, each with its condition."""
        return self.links.get(job.id, ())

    def paused(self, job: CronJob) -> bool:
        """Do all jobs of its owner stand still now?"""
        return job.owner in self.paused_owners

    def next_run_at(self, job: CronJob) -> datetime | None:
        """The next tick, when it will start the command as far as is known now; else None."""
        if not self.scheduler_alive or not job.enabled or job.armed_revision != job.revision:
            return None
        tick = self.claimed.get(job.id, job.next_run_at)
        if tick is not None and self.pauses and self.pauses.reason_for(job.owner, job.tags, tick):
            return None
        return tick


def look_around(session: Session, jobs: Sequence[CronJob], zone: ZoneInfo) -> Surroundings:
    """What surrounds these jobs now; `zone` is the server's.

    Call it once they are read: a tick that was the next one then, and is taken meanwhile, is found here.
    """
    now = utc_now()
    scheduler_alive = alive(session, "cron", now=now)
    return Surroundings(
        scheduler_alive=scheduler_alive,
        links=_links(session, [job.id for job in jobs]),
        claimed=_claimed(session, now) if scheduler_alive else {},
        paused_owners=set(session.scalars(select(Pause.owner).where(or_(Pause.until.is_(None), Pause.until > now)))),
        pauses=Pauses.load(session, zone),
    )


def _links(session: Session, job_ids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    links: dict[int, list[tuple[int, str]]] = {}
    query = select(Follows.job_id, Follows.after_job_id, Follows.condition).order_by(Follows.after_job_id)
    for start in range(0, len(job_ids), ASKED_AT_ONCE):
        for job_id, parent, condition in session.execute(
            query.where(Follows.job_id.in_(job_ids[start : start + ASKED_AT_ONCE]))
        ):
            links.setdefault(job_id, []).append((parent, condition))
    return links


def _claimed(session: Session, now: datetime) -> dict[int, datetime]:
    # Schedulers take ticks a moment before they are due. Few rows at any time, by the index of open runs.
    query = (
        select(JobRun.job_id, func.min(JobRun.scheduled_for))
        .where(JobRun.status == QUEUED, JobRun.start_at > now, JobRun.scheduled_for > now)
        .where(JobRun.trigger.in_(("schedule", "missed")))
        .group_by(JobRun.job_id)
    )
    return dict(session.execute(query).all())
