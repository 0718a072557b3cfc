"""Runs as the owners of their jobs handle them. `visible_to` is the only owner whose jobs exist; None: all do."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, not_, or_, select
from sqlalchemy.orm import Session, defer

from wsp.cron.models import ENDED, QUEUED, UNSUCCESSFUL, JobRun
from wsp.cron.notices import alerts
from wsp.cron.planning import queue
from wsp.cron.planning.followups import follow_ups
from wsp.cron.planning.rows import RUNS, is_one_of
from wsp.cron.service import MAX_JOB_ID, get_job
from wsp.errors import Conflict, Invalid, NotFound, Unavailable
from wsp.heartbeat import alive
from wsp.paging import Chosen, Page, Shape, matching
from wsp.settings import Settings

S = TypeVar("S", bound=Select[*tuple[Any, ...]])

RunRow: TypeAlias = Any
"""A run, or a row that has what is shown of one; without `output` where that was not asked for."""

WITH_OUTPUT_AT_ONCE = 16  # rows: each may have 64 KiB of output
_WITHOUT_OUTPUT = Shape(
    RUNS.c[name]
    for name in (
        *("id", "job_id", "status", "exit_code", "trigger", "scheduled_for", "start_at", "started_at", "finished_at"),
        *("duration_ms", "output_truncated", "reason", "attempt", "cause_run_id", "requested_by", "cpu_ms"),
        *("memory_kb", "output_bytes", "kill_requested_at", "kill_reason"),
    )
)
_WITH_OUTPUT = Shape((*_WITHOUT_OUTPUT.columns, RUNS.c.output))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)
_PROMISED = and_(JobRun.status == QUEUED, JobRun.service_id != "")


@dataclass(frozen=True, slots=True)
class RunPage(Page):
    """What of the runs of a job is wanted. `status` and `trigger` are lists with commas; `since` <= due < `until`."""

    status: str = ""
    trigger: str = ""
    since: datetime | None = None
    until: datetime | None = None
    cursor: str = ""
    output: bool = True


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two runs of a job: what is older than `at`, or what is `newer`.

    A job has one run for an instant, so the instant is a key; rows that are added move nothing.
    """

    at: datetime
    newer: bool = False

    def __str__(self) -> str:
        value = (self.at - _EPOCH) // _MICROSECOND * 2 + self.newer
        return base64.urlsafe_b64encode(value.to_bytes(9, "big")).decode()

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Raises Invalid."""
        try:
            value = int.from_bytes(base64.b64decode(text, altchars=b"-_", validate=True), "big")
            cursor = cls(_EPOCH + value // 2 * _MICROSECOND, bool(value % 2))
            if cursor.at > _LATEST:
                raise ValueError
        except (ValueError, OverflowError, binascii.Error):
            raise Invalid("Cursor must be what a Link header gave", field="cursor") from None
        return cursor


@dataclass(frozen=True, slots=True)
class RunList:
    """A part of the runs, newest first, how many there are in all, and where the parts beside it are.

    The runs are rows with what is shown of them, some at a time; they are read while the session lives.
    """

    runs: Iterable[Sequence[RunRow]]
    total: int
    older: Cursor | None = None
    newer: Cursor | None = None


def list_runs(session: Session, visible_to: str | None, job_id: int, page: RunPage, now: datetime) -> RunList:
    """A part of the runs of a job. Raises NotFound, and Invalid for a cursor that is none.

    What a scheduler has claimed ahead of its time is not shown: until then it may be taken back.
    """
    job = get_job(session, visible_to, job_id)
    if page.cursor and page.offset:
        raise Invalid("Offset cannot be given together with a cursor", field="offset")
    query = _filtered(select(JobRun.id, JobRun.scheduled_for).where(JobRun.job_id == job.id), page)
    query = query.where(or_(JobRun.scheduled_for <= now, not_(_PROMISED)))
    if page.limit is None and not page.offset and not page.cursor:
        run_ids = session.scalars(query.order_by(JobRun.scheduled_for.desc())).all()
        return RunList(_chosen(session, run_ids, page), len(run_ids))
    return _part(session, query, page, _count(session, job.id, page, now))


def _chosen(session: Session, run_ids: Sequence[int], page: RunPage) -> Chosen:
    if page.output:
        return Chosen(session, _WITH_OUTPUT, JobRun.id, run_ids, at_once=WITH_OUTPUT_AT_ONCE)
    return Chosen(session, _WITHOUT_OUTPUT, JobRun.id, run_ids)


def _part(session: Session, query: Select[int, datetime], page: RunPage, total: int) -> RunList:
    cursor = Cursor.read(page.cursor) if page.cursor else None
    newer = cursor is not None and cursor.newer
    if cursor is not None:
        # By the unique index on (job_id, scheduled_for): a late part costs as much as the first.
        query = query.where(JobRun.scheduled_for > cursor.at if newer else JobRun.scheduled_for < cursor.at)
    query = query.order_by(JobRun.scheduled_for.asc() if newer else JobRun.scheduled_for.desc())
    wanted = None if page.limit is None else page.limit + 1  # the one more tells whether the list goes on
    runs = session.execute(query.limit(wanted).offset(page.offset)).all()
    goes_on = page.limit is not None and len(runs) > page.limit
    runs = runs[: page.limit]
    if newer:
        runs = runs[::-1]
    if not runs:
        return RunList((), total)
    has_older, has_newer = (True, goes_on) if newer else (goes_on, cursor is not None or page.offset > 0)
    return RunList(
        _chosen(session, [run.id for run in runs], page),
        total,
        older=Cursor(runs[-1].scheduled_for) if has_older else None,
        newer=Cursor(runs[0].scheduled_for, newer=True) if has_newer else None,
    )


def _count(session: Session, job_id: int, page: RunPage, now: datetime) -> int:
    # In two, as without filters the index alone answers the first one, which may be about a million rows.
    query = _filtered(select(func.count()).select_from(JobRun).where(JobRun.job_id == job_id), page)
    past = query.where(JobRun.scheduled_for <= now).scalar_subquery()
    future = query.where(JobRun.scheduled_for > now, not_(_PROMISED)).scalar_subquery()
    return session.scalar(select(past + future)) or 0


def _filtered(query: S, page: RunPage) -> S:
    conditions: list[ColumnElement[bool]] = []
    if page.status:
        statuses = set(page.status.split(","))
        conditions.append(JobRun.status.in_(sorted(statuses)))
        if statuses <= set(UNSUCCESSFUL):
            conditions.append(is_one_of(UNSUCCESSFUL))  # so the index of those serves
    if page.trigger:
        conditions.append(JobRun.trigger.in_(page.trigger.split(",")))
    if page.since is not None:
        conditions.append(JobRun.scheduled_for >= page.since)
    if page.until is not None:
        conditions.append(JobRun.scheduled_for < page.until)
    return matching(query.where(*conditions), page.search, [JobRun.output, JobRun.status, JobRun.reason])


def get_run(
    session: Session, visible_to: str | None, job_id: int, run_id: int, *, change: bool = False, output: bool = True
) -> JobRun:
    """One run of a job; with `change`, locked until the commit; without `output`, those columns are left unread.

    Raises NotFound.
    """
    get_job(session, visible_to, job_id, change=change)  # before its run, as everybody does
    query = select(JobRun).where(JobRun.id == run_id, JobRun.job_id == job_id)
    if change:
        query = query.with_for_update()
    if not output:
        query = query.options(defer(JobRun.output), defer(JobRun.output_frames))
    run = session.scalar(query) if 0 < run_id <= MAX_JOB_ID else None
    if run is None:
        raise NotFound("Run not found")
    return run


def kill_run(
    session: Session,
    settings: Settings,
    visible_to: str | None,
    job_id: int,
    run_id: int,
    *,
    by: str,
    reason: str = "",
    grace_seconds: int | None = None,
    now: datetime,
) -> JobRun:
    """Ask for the end of a run; its scheduler sees to it. What waits and was claimed by nobody ends here and now.

    A second request changes nothing. Raises NotFound, Conflict for a run that is over, and Unavailable when no
    scheduler lives that could do it.
    """
    run = get_run(session, visible_to, job_id, run_id, change=True)
    if run.status in ENDED:
        raise Conflict(f"Run {run.id} has ended already")
    if run.kill_requested_at is not None:
        return run
    run.kill_requested_at = now
    run.kill_reason = f"Killed by {by}: {reason}" if reason else f"Killed by {by}"
    run.kill_grace_seconds = grace_seconds
    session.flush()
    if run.status == QUEUED and not run.service_id:
        ends = queue.cancel_killed(session, now)
        follow_ups(session, ends, now)
        alerts.on_ends(session, settings, ends, now)
        session.refresh(run)
    elif not alive(session, "cron", now=now):
        raise Unavailable("No scheduler is running that could end it: try again when one is")
    return run
