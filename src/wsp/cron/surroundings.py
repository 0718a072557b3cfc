"""What an answer says of jobs beyond their own rows: asked for once for all of them, not once for each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam, or_, select
from sqlalchemy.orm import Session

from wsp.cron.models import QUEUED, Follows, JobRun, Maintenance, Pause
from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.rows import JobRow, is_open
from wsp.database import utc_now
from wsp.heartbeat import alive
from wsp.owners import ACTIVE, OWNERS

ASKED_AT_ONCE = 30_000  # values in one question: SQLite takes 32,766

# Built once: these run with every answer that shows a job.
# Schedulers take ticks a moment before they are due: few rows at any time, by the index of open runs. The latest
# comes first, so that of several the earliest stays.
_CLAIMED = (
    select(JobRun.job_id, JobRun.scheduled_for)
    .where(
        is_open(), JobRun.status == QUEUED, JobRun.start_at > bindparam("now"), JobRun.scheduled_for > bindparam("now")
    )
    .where(JobRun.trigger.in_(("schedule", "missed")))
    .order_by(JobRun.scheduled_for.desc())
)
_DISABLED = select(OWNERS.c.username).where(
    OWNERS.c.username.in_(bindparam("owners", expanding=True)), OWNERS.c.status != ACTIVE
)
_ANYTHING = select(
    select(Follows.job_id).exists(),
    _CLAIMED.order_by(None).exists(),
    select(Pause.owner).exists(),
    select(Maintenance.id).exists(),
    _DISABLED.exists(),
)


@dataclass(frozen=True)
class Surroundings:
    """What surrounds some jobs at a moment."""

    scheduler_alive: bool
    links: Mapping[int, Sequence[tuple[int, str]]]
    claimed: Mapping[int, datetime]  # ticks ahead that a scheduler holds already
    paused_owners: Collection[str]
    disabled_owners: Collection[str]
    pauses: Pauses | None  # None: there are none

    def parents(self, job: JobRow) -> Sequence[tuple[int, str]]:
        """The jobs that it runs after, by id, each with its condition."""
        return self.links.get(job.id, ())

    def paused(self, job: JobRow) -> bool:
        """Do all jobs of its owner stand still now?"""
        return job.owner in self.paused_owners

    def next_run_at(self, job: JobRow) -> datetime | None:
        """The next tick, when it will start the command as far as is known now; else None."""
        armed = self.scheduler_alive and job.enabled and job.armed_revision == job.revision
        tick = self.claimed.get(job.id, job.next_run_at)
        if not armed or tick is None or job.owner in self.disabled_owners:
            return None
        held_up = self.pauses is not None and self.pauses.reason_for(job.owner, job.tags, tick)
        return None if held_up else tick


def look_around(session: Session, jobs: Sequence[JobRow], zone: ZoneInfo) -> Surroundings:
    """What surrounds these jobs now; `zone` is the server's.

    Call it once they are read: a tick that was the next one then, and is taken meanwhile, is found here.
    """
    now = utc_now()
    ids = [job.id for job in jobs]
    owners = sorted({job.owner for job in jobs})[:ASKED_AT_ONCE]  # in one answer there are no more
    # Most of the time there is nothing of all this, and one question is enough to know.
    any_linked, any_claimed, any_pause, any_window, any_disabled = session.execute(
        _ANYTHING, {"now": now, "owners": owners}
    ).one()
    return Surroundings(
        scheduler_alive=alive(session, "cron", now=now),
        links=_links(session, ids) if any_linked else {},
        claimed=_claimed(session, now) if any_claimed else {},
        paused_owners=_paused_owners(session, now) if any_pause else (),
        disabled_owners=set(session.scalars(_DISABLED, {"owners": owners})) if any_disabled else (),
        pauses=Pauses.load(session, zone) if any_pause or any_window else None,
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
    return dict(session.execute(_CLAIMED, {"now": now}).all())


def _paused_owners(session: Session, now: datetime) -> set[str]:
    return set(session.scalars(select(Pause.owner).where(or_(Pause.until.is_(None), Pause.until > now))))
