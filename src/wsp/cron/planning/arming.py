"""When each job is due next: given to jobs that were changed, and counted anew when the clock or the zone was."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from zoneinfo import TZPATH, ZoneInfo

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from wsp.cron.models import QUEUED, SKIPPED, CronState
from wsp.cron.planning.bulk import insert_runs, update_rows
from wsp.cron.planning.rows import BATCH_JOBS, JOB_COLUMNS, JOBS, JOBS_WITH_OWNERS, RUNS, JobRow
from wsp.cron.planning.timetable import TIMETABLE_COLUMNS, Timetable, Unreadable
from wsp.cron.schedule.expression import LONGEST_STEP_BACK
from wsp.database import insert_into

IDS_AT_ONCE = 20_000  # looked through in one step of `rearm`
MOST_LEFTOVERS = 100  # ticks of one job that get a row each
SECOND = timedelta(seconds=1)
FARTHEST_AHEAD = timedelta(seconds=5)  # more than planning looks ahead

CHANGED = "The job was changed before the scheduler came to decide this tick"

DEFAULT_ZONE = "default_zone"  # the row of cron_state

Cause = Literal["clock", "zone", "tzdata"]

logger = logging.getLogger(__name__)


def arm(session: Session, now: datetime, zone: ZoneInfo, *, limit: int = BATCH_JOBS) -> list[int]:
    """Give `next_run_at` to jobs that were created or changed: their first tick after `due_from`. Returns their ids.

    It may lie in the past: then it is for `plan`, and a missed one if it is late. A job that is disabled, that has no
    times of its own, or whose stored expression or time zone is none, gets null.
    """
    jobs = session.execute(
        select(*JOB_COLUMNS, *TIMETABLE_COLUMNS)
        .select_from(JOBS_WITH_OWNERS)
        .where(JOBS.c.revision != JOBS.c.armed_revision)
        .order_by(JOBS.c.armed_revision, JOBS.c.id)
        .limit(limit)
        .with_for_update(of=JOBS, skip_locked=True, key_share=True)
    ).all()
    if not jobs:
        return []
    timetable = Timetable(zone)
    _withdraw_ahead(session, jobs, now, timetable)
    leftovers = [row for job in jobs for row in _leftovers(job, now, timetable)]
    if leftovers:
        insert_runs(session, leftovers)
    moves = []
    for job in jobs:
        decided = _decided_until(job, now)
        moves.append(_move(job, _first_tick(timetable, job, decided) if job.enabled else None, decided))
    _write(session, moves)
    return [job.job_id for job in jobs]


def rearm_wanted(session: Session, now: datetime, zone: ZoneInfo) -> Cause | None:
    """At the start of a scheduler: does something call for `rearm` that came about while none ran?"""
    newest = session.scalar(select(RUNS.c.scheduled_for).order_by(RUNS.c.id.desc()).limit(1))
    if newest is not None and newest > now + LONGEST_STEP_BACK:
        return "clock"
    known = session.scalar(select(CronState.value).where(CronState.name == DEFAULT_ZONE))
    if known is None or known == _zone_and_rules(zone):
        return None
    return "tzdata" if known.split(" ")[1:] != _zone_and_rules(zone).split(" ")[1:] else "zone"


def remember_zone(session: Session, zone: ZoneInfo) -> None:
    """After `rearm`, and when none was wanted: this is the zone that jobs without one are armed for."""
    # In one statement: of two schedulers that begin at the same moment, the second would fail.
    values = {"value": _zone_and_rules(zone)}
    statement = insert_into(session, CronState).values(name=DEFAULT_ZONE, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[CronState.name], set_=values))


def rearm(
    session: Session, now: datetime, zone: ZoneInfo, cause: Cause, *, after_id: int = 0, limit: int = BATCH_JOBS
) -> int | None:
    """Count `next_run_at` of waiting jobs anew, from `now` on. A tick that is overdue is left to `plan`.

    `clock`: it was set back; only jobs with ticks decided that now lie more than LONGEST_STEP_BACK ahead are concerned,
    for that was a correction. `zone`: the server's zone is another; jobs that name none. `tzdata`: the rules of zones
    may be others; all jobs. Looks at jobs whose id is above `after_id`, and returns where to go on, None at the end.
    """
    jobs = session.execute(
        select(*JOB_COLUMNS, *TIMETABLE_COLUMNS)
        .select_from(JOBS_WITH_OWNERS)
        .where(JOBS.c.id > after_id, JOBS.c.id <= after_id + IDS_AT_ONCE, JOBS.c.enabled)
        .where(JOBS.c.revision == JOBS.c.armed_revision)
        .where(or_(JOBS.c.next_run_at > now, JOBS.c.next_run_at.is_(None)))
        .where(*_concerned(cause, now))
        .order_by(JOBS.c.id)
        .limit(limit)
        .with_for_update(of=JOBS, skip_locked=True, key_share=True)
    ).all()
    timetable = Timetable(zone)
    moves = []
    for job in jobs:
        counted_from = _counted_from(job, now)
        next_run_at = _first_tick(timetable, job, counted_from)
        if (next_run_at, counted_from) != (job.next_run_at, job.due_from):
            moves.append(_move(job, next_run_at, counted_from))
    _write(session, moves)
    if len(jobs) == limit:
        last: int = jobs[-1].job_id
        return last
    looked_until = after_id + IDS_AT_ONCE
    newest = session.scalar(select(func.max(JOBS.c.id)))
    return looked_until if newest is not None and looked_until < newest else None


def _move(job: JobRow, next_run_at: datetime | None, due_from: datetime) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "revision": job.revision,
        "armed_revision": job.revision,
        "next_run_at": next_run_at,
        "due_from": due_from,
    }


def _write(session: Session, moves: Sequence[dict[str, Any]]) -> None:
    # The revision that was read decides: a change that came in between is armed by the next call.
    update_rows(session, JOBS, moves, by=["id", "revision"])


def _concerned(cause: Cause, now: datetime) -> list[Any]:
    if cause == "clock":
        return [or_(JOBS.c.due_from > now + LONGEST_STEP_BACK, JOBS.c.due_from.is_(None))]
    return [JOBS.c.timezone == ""] if cause == "zone" else []


def _decided_until(job: JobRow, now: datetime) -> datetime:
    """Up to when the ticks of a job are decided, or are none of its."""
    if job.due_from is None:  # it was armed by a version that did not write this down
        return job.next_run_at - SECOND if job.next_run_at is not None else now
    return now if job.due_from > now + LONGEST_STEP_BACK else job.due_from


def _counted_from(job: JobRow, now: datetime) -> datetime:
    """From now on. But a clock that was set back by little shows ticks again that have had their turn: cron(8)."""
    return max(now, _decided_until(job, now)) if job.due_from is not None else now


def _first_tick(timetable: Timetable, job: JobRow, instant: datetime) -> datetime | None:
    with suppress(Unreadable):
        return timetable.first_after(job, instant)
    return None


def _leftovers(job: JobRow, now: datetime, timetable: Timetable) -> list[dict[str, Any]]:
    """Rows for ticks that were due before the job was changed, and that nobody had decided until then."""
    first: datetime | None = job.next_run_at
    if first is None or job.due_from is None or not first <= min(job.due_from, now):
        return []
    ticks = [first]
    with suppress(Unreadable):
        # Of another expression than the one that it has now, only this tick is known.
        if timetable.first_after(job, first - SECOND) == first:
            ticks += timetable.newest_between(job, first, min(job.due_from, now), MOST_LEFTOVERS - 1)
    return [
        {
            "job_id": job.job_id,
            "scheduled_for": tick,
            "start_at": tick,
            "trigger": "schedule",
            "status": SKIPPED,
            "reason": CHANGED,
            "finished_at": now,
        }
        for tick in ticks
    ]


def _withdraw_ahead(session: Session, jobs: Sequence[JobRow], now: datetime, timetable: Timetable) -> None:
    """Delete rows of ticks that have not come and that a changed job does not have, unless they are claimed.

    A claimed one may be about to start: its scheduler withdraws it when it is due.
    """
    by_id = {job.job_id: job for job in jobs}
    ahead = session.execute(
        select(RUNS.c.id, RUNS.c.job_id, RUNS.c.scheduled_for).where(
            RUNS.c.job_id.in_(list(by_id)),
            RUNS.c.scheduled_for > now,
            RUNS.c.scheduled_for <= now + FARTHEST_AHEAD,  # else: decided before the clock was set back
            RUNS.c.status == QUEUED,
            RUNS.c.service_id == "",
            RUNS.c.trigger == "schedule",
        )
    ).all()
    gone = [
        run.id
        for run in ahead
        if not by_id[run.job_id].enabled
        or _first_tick(timetable, by_id[run.job_id], run.scheduled_for - SECOND) != run.scheduled_for
    ]
    if gone:
        session.execute(delete(RUNS).where(RUNS.c.id.in_(gone), RUNS.c.service_id == ""))


def _zone_and_rules(zone: ZoneInfo) -> str:
    """The zone's name, and the version of the time zone database where it can be told."""
    for folder in TZPATH:
        with suppress(OSError), Path(folder, "tzdata.zi").open(encoding="utf-8", errors="replace") as file:
            return f"{zone.key} {file.readline().removeprefix('# version').strip()}"
    with suppress(PackageNotFoundError):
        return f"{zone.key} {version('tzdata')}"
    return zone.key
