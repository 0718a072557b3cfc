"""Runs that have a row and have not been started: those that wait, and those that a scheduler has at hand."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select, update
from sqlalchemy.orm import Session

from wsp.cron.models import KILLED, QUEUED, RUNNING
from wsp.cron.planning.bulk import update_rows
from wsp.cron.planning.decisions import PATIENT, SCHEDULE, Verdict, bar, judge
from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.rows import (
    BATCH_JOBS,
    JOB_COLUMNS,
    JOBS,
    OWNER_STATUS,
    RUN_COLUMNS,
    RUNS,
    RUNS_WITH_JOBS,
    UNCLAIMED,
    Batch,
    Claim,
    JobRow,
    OnSqlite,
    OpenRun,
    is_open,
    never_started,
    open_runs,
    run_of,
)
from wsp.cron.planning.timetable import TIMETABLE_COLUMNS, Timetable, Unreadable
from wsp.cron.planning.work import End, PlannedRun, Status

IDS_AT_ONCE = 500  # in one statement

_QUEUED = and_(OnSqlite(is_open()), RUNS.c.status == literal_column(f"'{QUEUED}'"))
SECOND = timedelta(seconds=1)


@cache
def claimable() -> ColumnElement[bool]:
    """Of runs and no other table: they wait unclaimed, and only for their time and for a place.

    Or for a decision: what `claim_queued` would leave waiting because of another run of its job is left out, so that
    nobody looks at it again and again. The other run's end is a reason to look.
    """
    other = RUNS.alias("other")
    active = and_(
        other.c.job_id == RUNS.c.job_id,
        is_open(other),
        or_(other.c.status == RUNNING, other.c.service_id != ""),
    )
    job = JOBS.alias("its_job")
    overlap = (
        select(func.coalesce(job.c.policy["overlap"].as_string(), "skip"))
        .where(job.c.id == RUNS.c.job_id)
        .scalar_subquery()
    )
    impatient = RUNS.c.trigger.not_in(PATIENT)
    may_kill = select(other.c.id).where(active, other.c.kill_requested_at.is_(None)).exists()
    return and_(
        _QUEUED,
        RUNS.c.service_id == "",
        RUNS.c.kill_requested_at.is_(None),
        or_(
            ~select(other.c.id).where(active).exists(),
            overlap == "allow",
            and_(impatient, overlap == "skip"),
            and_(impatient, overlap == "replace", may_kill),
        ),
    )


def claim_queued(session: Session, now: datetime, zone: ZoneInfo, claim: Claim, *, limit: int = BATCH_JOBS) -> Batch:
    """Claim up to `limit` runs of the queue that are due, those first that have waited longest.

    Those that must not start are skipped, with the reason; those that wait for another run of their job go on waiting.
    """
    # Not by id as well: of very many that are due at one time, each would be looked at to find the first ones.
    query = _select_runs().where(claimable(), RUNS.c.start_at <= now).order_by(RUNS.c.start_at).limit(limit)
    rows = session.execute(query.with_for_update(of=[JOBS, RUNS], skip_locked=True, key_share=True)).all()
    return _decide(session, sorted(rows, key=lambda row: (row.start_at, row.run_id)), now, zone, claim)


def settle(session: Session, runs: Sequence[PlannedRun], now: datetime, zone: ZoneInfo, claim: Claim) -> Batch:
    """Decide again about claimed runs that are due, when another run of their job goes on, or they are contended.

    The answer's `runs` are to be started. Those that have to wait are in the queue again, claimed by nobody.
    """
    batches = []
    for some in _parts([run.run_id for run in runs]):
        query = _select_runs().where(RUNS.c.id.in_(some), _QUEUED, RUNS.c.service_id == claim.service_id)
        # Jobs in their order, and each before its runs, as ends are recorded and jobs deleted: nobody waits for one who
        # waits for him.
        locked = query.order_by(JOBS.c.id, RUNS.c.start_at, RUNS.c.id).with_for_update(of=[JOBS, RUNS], key_share=True)
        batches.append(_decide(session, session.execute(locked).all(), now, zone, claim))
    return Batch(
        [run for batch in batches for run in batch.runs],
        [end for batch in batches for end in batch.ends],
        sum(batch.jobs for batch in batches),
        any(batch.kills for batch in batches),
    )


def refresh(session: Session, runs: Sequence[PlannedRun], zone: ZoneInfo) -> dict[int, PlannedRun | None]:
    """Read claimed runs again whose time has not come. Holds what has changed, by the runs' ids.

    None: it has no row any more, for its job is gone. A run that may not be started, because of a pause, of its owner,
    or because its job does not have this tick any more, is contended now: `settle` decides when it is due. Nothing is
    written: what is read here may be starting already.
    """
    known = {run.run_id: run for run in runs}
    changed: dict[int, PlannedRun | None] = dict.fromkeys(known)
    pauses, timetable = Pauses.load(session, zone), Timetable(zone)
    suspects: list[int] = []
    for some in _parts(known):
        columns = RUNS.c.id, JOBS.c.owner, JOBS.c.tags, JOBS.c.updated_at, JOBS.c.enabled, OWNER_STATUS
        query = select(*columns).select_from(RUNS_WITH_JOBS)
        for row in session.execute(query.where(RUNS.c.id.in_(some))):
            run = known[row.id]
            barred = _barred(row, run, pauses, run.start_at) is not None
            if row.updated_at != run.job.updated_at or (barred and not run.contended):
                suspects.append(row.id)
            else:
                del changed[row.id]
    for some in _parts(suspects):
        for row in session.execute(_select_runs().where(RUNS.c.id.in_(some), _QUEUED)):
            run = run_of(row)
            barred = _barred(row, run, pauses, run.start_at) is not None
            contended = known[run.run_id].contended or barred or not _is_tick(row, timetable)
            changed[run.run_id] = run_of(row, contended=contended)
    return changed


def cancel_killed(session: Session, now: datetime) -> list[End]:
    """End the runs of the queue that somebody wants killed before they have started."""
    rows = session.execute(
        _select_runs()
        .where(RUNS.c.kill_requested_at.is_not(None), _QUEUED, RUNS.c.service_id == "")
        .with_for_update(of=[JOBS, RUNS], skip_locked=True, key_share=True)
    ).all()
    ends = [never_started(run_of(row), now, row.kill_reason, "killed") for row in rows]
    _record(session, ends)
    return ends


def kills_wanted(session: Session, service_id: str) -> list[tuple[int, str, int | None]]:
    """The claimed runs of this scheduler that somebody wants killed, why, and with how many seconds of grace.

    None: as many as the job's policy gives.
    """
    query = select(RUNS.c.id, RUNS.c.kill_reason, RUNS.c.kill_grace_seconds).where(
        RUNS.c.kill_requested_at.is_not(None), is_open(), RUNS.c.service_id == service_id
    )
    return [(row.id, row.kill_reason, row.kill_grace_seconds) for row in session.execute(query.order_by(RUNS.c.id))]


def apply_replacements(
    session: Session, replacements: Iterable[tuple[int, Sequence[int], Sequence[int]]], now: datetime
) -> list[End]:
    """Have runs killed, and end others that wait, for the sake of a new one: (its id, kills, supersedes).

    Returns the ends of those that waited.
    """
    replacements = list(replacements)
    kills = [
        {"id": run_id, "kill_requested_at": now, "kill_reason": f"Replaced by run {successor}"}
        for successor, killed, _ in replacements
        for run_id in killed
    ]
    update_rows(session, RUNS, kills, RUNS.c.kill_requested_at.is_(None), by=["id"])
    successors = {run_id: successor for successor, _, superseded in replacements for run_id in superseded}
    ends = []
    for some in _parts(successors):
        query = _select_runs().where(RUNS.c.id.in_(some), _QUEUED, RUNS.c.service_id == "")
        ends += [
            never_started(run_of(row), now, f"Run {successors[row.run_id]} took its place")
            for row in session.execute(query.with_for_update(of=RUNS, skip_locked=True, key_share=True))
        ]
    _record(session, ends)
    return ends


def _select_runs() -> Any:
    return select(*JOB_COLUMNS, *RUN_COLUMNS, *TIMETABLE_COLUMNS).select_from(RUNS_WITH_JOBS)


def _parts(ids: Iterable[int]) -> list[list[int]]:
    ordered = sorted(ids)
    return [ordered[start : start + IDS_AT_ONCE] for start in range(0, len(ordered), IDS_AT_ONCE)]


def _decide(session: Session, rows: Sequence[JobRow], now: datetime, zone: ZoneInfo, claim: Claim) -> Batch:
    """Decide about runs that are locked, in this order."""
    if not rows:
        return Batch()
    pauses, timetable = Pauses.load(session, zone), Timetable(zone)
    # Asked for after the locks were taken: what another scheduler has decided about these jobs is seen.
    open_ = open_runs(session, [row.job_id for row in rows])
    undecided = {row.run_id for row in rows}
    going: list[PlannedRun] = []
    claimed: list[int] = []
    released: list[int] = []
    withdrawn: list[int] = []
    left = 0
    ends: list[End] = []
    replacements: list[tuple[int, Sequence[int], Sequence[int]]] = []
    for row in rows:
        undecided.remove(row.run_id)
        run = run_of(row)
        place = run.start_at, run.run_id
        others = [other for other in open_[row.job_id] if other.run_id != run.run_id]
        if row.kill_requested_at is None and not _is_tick(row, timetable):
            withdrawn.append(run.run_id)
            open_[row.job_id] = others
            continue
        before = [
            other
            for other in others
            if other.run_id not in undecided and ((other.start_at, other.run_id) < place or not other.is_waiting(now))
        ]
        verdict = _verdict(row, run, before, pauses, now, claim)
        if verdict.step == "skip":
            status: Status = "skipped" if row.kill_requested_at is None else "killed"
            ends.append(never_started(run, now, verdict.reason, status))
            open_[row.job_id] = others
            continue
        goes = verdict.step == "go"
        if goes:
            going.append(run)
        if goes and not row.service_id:
            claimed.append(run.run_id)
        elif not goes and row.service_id:
            released.append(run.run_id)
        elif not goes and not verdict.kills and not verdict.supersedes:
            left += 1
        if verdict.kills or verdict.supersedes:
            replacements.append((run.run_id, verdict.kills, verdict.supersedes))
        itself = OpenRun(run.run_id, QUEUED, run.start_at, run.trigger, claim.service_id if goes else "")
        open_[row.job_id] = [*(other for other in others if other.run_id not in verdict.supersedes), itself]
    _set(session, claimed, claim.columns)
    _set(session, released, UNCLAIMED)
    for some in _parts(withdrawn):
        session.execute(RUNS.delete().where(RUNS.c.id.in_(some), RUNS.c.status == QUEUED))
    _record(session, ends)
    ends += apply_replacements(session, replacements, now)
    return Batch(going, ends, len(rows) - left, any(kills for _, kills, _ in replacements))


def _verdict(
    row: JobRow, run: PlannedRun, before: Sequence[OpenRun], pauses: Pauses, now: datetime, claim: Claim
) -> Verdict:
    if row.kill_requested_at is not None:
        return Verdict("skip", row.kill_reason)
    if reason := _barred(row, run, pauses, now):
        return Verdict("skip", reason)
    return judge(run.job.policy, run.trigger, before, now, claim.service_id)


def _barred(row: JobRow, run: PlannedRun, pauses: Pauses, now: datetime) -> str | None:
    return bar(row, run.job.policy, pauses, run.trigger, run.scheduled_for, run.start_at, now)


def _is_tick(row: JobRow, timetable: Timetable) -> bool:
    """Is this run of the schedule still one? Ticks that were due before the job was changed are."""
    if row.trigger != SCHEDULE or row.due_from is None or row.scheduled_for <= row.due_from:
        return True
    try:
        return bool(row.enabled) and timetable.first_after(row, row.scheduled_for - SECOND) == row.scheduled_for
    except Unreadable:
        return False


def _set(session: Session, run_ids: Sequence[int], columns: dict[str, str]) -> None:
    for some in _parts(run_ids):
        session.execute(update(RUNS).where(RUNS.c.id.in_(some), RUNS.c.status == QUEUED).values(columns))


def _record(session: Session, ends: Sequence[End]) -> None:
    """Write the ends of runs that were not started. Lock the jobs of those that are last words first."""
    rows = [
        {
            "id": end.run.run_id,
            "status": end.result.status,
            "reason": end.result.reason,
            "finished_at": end.result.finished_at,
        }
        for end in ends
    ]
    update_rows(session, RUNS, rows, RUNS.c.status == QUEUED, by=["id"])
    failures = Counter(end.run.job.id for end in ends if end.is_last_word)
    killed = {end.run.job.id: end.result.finished_at for end in ends if end.result.status == KILLED}
    for job_id, more in sorted(failures.items()):
        values: dict[str, Any] = {"failures_in_row": JOBS.c.failures_in_row + more}
        if job_id in killed:  # that is an end; what is skipped was no run
            values |= {"last_run_at": killed[job_id], "last_run_ok": False}
        session.execute(update(JOBS).where(JOBS.c.id == job_id).values(values))
