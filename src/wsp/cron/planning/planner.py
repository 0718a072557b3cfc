"""What is due: one decision for every tick of every job. No loop and no clock here: time is an argument.

Each step takes a session and `now`, does a bounded amount of work, and returns what it did; the caller commits.
Several schedulers may work on one database: a tick belongs to whoever inserts its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, ScalarSelect, Select, func, literal, literal_column, select
from sqlalchemy.orm import Session

from wsp.cron.models import QUEUED, SKIPPED
from wsp.cron.planning.bulk import insert_runs, update_rows
from wsp.cron.planning.decisions import GO, MISSED, SCHEDULE, bar, judge
from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.queue import apply_replacements, claimable
from wsp.cron.planning.rows import (
    BATCH_JOBS,
    JOB_COLUMNS,
    JOBS,
    JOBS_WITH_OWNERS,
    RUNS,
    UNCLAIMED,
    Batch,
    Claim,
    JobRow,
    OpenRun,
    is_open,
    job_of,
    never_started,
    open_runs,
)
from wsp.cron.planning.timetable import TIMETABLE_COLUMNS, Timetable, Unreadable, spread
from wsp.cron.planning.work import End, PlannedRun, Trigger
from wsp.cron.policy import Policy
from wsp.cron.schedule.expression import REBOOT
from wsp.database import insert_into

__all__ = ["Batch", "Claim", "Waiting", "plan", "reboot", "waiting"]

MISSED_TICKS_KEPT = 100
MISSED_SECONDS = 30.0  # a tick that is decided later than this was missed; less is only a busy scheduler
BATCH_ROWS = 1000  # in one transaction, about: a job that missed many ticks has many

REBOOTED: Trigger = "reboot"

NOT_RUNNING = "The scheduler was not running"
TOO_LATE = "The scheduler came too late: the clock was set forward, the machine slept, or the database was away"
NOT_LISTED = "; what was missed before is not listed"


@dataclass(frozen=True)
class Waiting:
    """What there is for a scheduler to do."""

    unarmed: bool  # for `arm`
    next_due: datetime | None  # the earliest next_run_at, for `plan`
    queue_due: datetime | None  # when the first run that waits may start, for `claim_queued`: given a free place
    kills: bool  # somebody wants a run ended: for `cancel_killed` and `kills_wanted`


def waiting(session: Session, now: datetime) -> Waiting:
    """Look, in one cheap query, whether there is anything to do. Writes nothing."""
    row = session.connection().execute(_anything()).one()
    return Waiting(row[0] is not None, row[1], row[2], row[3] is not None)


@cache
def _anything() -> Select[*tuple[Any, ...]]:
    # Built once: to build it takes longer than to ask it, and it is asked after every commit of anybody.
    unarmed = _first(select(JOBS.c.id).where(JOBS.c.revision != JOBS.c.armed_revision), JOBS.c.armed_revision)
    earliest = select(func.min(JOBS.c.next_run_at)).where(JOBS.c.enabled).scalar_subquery()
    queued = _first(select(RUNS.c.start_at).where(claimable()), RUNS.c.start_at)
    kills = _first(select(RUNS.c.id).where(RUNS.c.kill_requested_at.is_not(None), is_open()), RUNS.c.id)
    return select(unarmed, earliest, queued, kills)


def _first(query: Select[Any], order: ColumnElement[Any]) -> ScalarSelect[Any]:
    # By the order of a partial index: looking whether there is any, PostgreSQL expects to meet one soon wherever it
    # begins, and walks all of the table when there is none.
    return query.order_by(order).limit(1).scalar_subquery()


def plan(
    session: Session,
    now: datetime,
    until: datetime,
    zone: ZoneInfo,
    claim: Claim,
    *,
    places: int,
    limit: int = BATCH_JOBS,
) -> Batch:
    """Decide the ticks up to `until` of up to `limit` jobs, those first that have waited longest.

    `until` is `now`, or a moment later, to have what is due then at hand. At most `places` runs are claimed, and are
    in the answer; further ones wait in the queue, unclaimed.
    """
    jobs = _due(session, until, limit)
    if not jobs:
        return Batch()
    desk = _Desk(session, now, until, Timetable(zone), Pauses.load(session, zone), claim, places)
    desk.others = open_runs(session, [job.job_id for job in jobs])
    taken = 0
    for job in jobs:
        desk.decide(job)
        taken += 1
        if len(desk.decisions) >= BATCH_ROWS:
            break
    runs, ends, kills = desk.write()
    return Batch(runs, ends, taken, kills)


def reboot(session: Session, now: datetime, claim: Claim) -> Batch:
    """Put a run of every `@reboot` job into the queue, once for this start of the service (`claim.running_since`).

    The queue decides about them as about all others.
    """
    # `enabled` in a way that no index serves: SQLite would take the one on it for the better one.
    jobs = select(
        JOBS.c.id,
        literal(claim.running_since, RUNS.c.scheduled_for.type),
        literal(now, RUNS.c.start_at.type),
        literal(REBOOTED),
        literal(QUEUED),
    ).where(JOBS.c.cron_expr == literal_column(f"'{REBOOT}'"), JOBS.c.enabled.is_not(False))
    columns = ["job_id", "scheduled_for", "start_at", "trigger", "status"]
    once = insert_into(session, RUNS).from_select(columns, jobs).on_conflict_do_nothing()
    return Batch(jobs=len(session.execute(once.returning(RUNS.c.id)).all()))


def _due(session: Session, until: datetime, limit: int) -> Sequence[JobRow]:
    return session.execute(
        select(*JOB_COLUMNS, *TIMETABLE_COLUMNS)
        .select_from(JOBS_WITH_OWNERS)
        .where(JOBS.c.enabled, JOBS.c.next_run_at <= until, JOBS.c.revision == JOBS.c.armed_revision)
        .order_by(JOBS.c.next_run_at, JOBS.c.id)
        .limit(limit)
        # Not so strict that a run cannot be inserted meanwhile, which asks whether its job is there.
        .with_for_update(of=JOBS, skip_locked=True, key_share=True)
    ).all()


@dataclass(slots=True)
class _Decision:
    """The row that a tick gets."""

    job: JobRow
    policy: Policy
    tick: datetime
    start_at: datetime
    trigger: Trigger
    reason: str = ""  # of a tick that is skipped
    claimed: bool = False
    contended: bool = False
    kills: Sequence[int] = ()
    supersedes: Sequence[int] = ()

    def row(self, now: datetime, claim: Claim) -> dict[str, Any]:
        """What is inserted."""
        skipped = bool(self.reason)
        return {
            "job_id": self.job.job_id,
            "scheduled_for": self.tick,
            "start_at": self.start_at,
            "trigger": self.trigger,
            "status": SKIPPED if skipped else QUEUED,
            "reason": self.reason,
            "finished_at": now if skipped else None,
            **(claim.columns if skipped or self.claimed else UNCLAIMED),
        }

    def run(self, run_id: int) -> PlannedRun:
        """The run, once it has a row."""
        return PlannedRun(run_id, job_of(self.job), self.tick, self.start_at, self.trigger, contended=self.contended)


@dataclass(slots=True)
class _Desk:
    """The decisions of one batch, made job by job and then written together."""

    session: Session
    now: datetime
    until: datetime
    timetable: Timetable
    pauses: Pauses
    claim: Claim
    places: int
    others: dict[int, list[OpenRun]] = field(default_factory=dict)
    decisions: list[_Decision] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)

    def decide(self, job: JobRow) -> None:
        """Decide all ticks of a job, and when it is due next."""
        policy = Policy.of(job.policy)
        try:
            ticks, upcoming, unlisted = self._ticks(job)
        except Unreadable as error:
            # Its clock is unknown, but it was once, when this tick was found.
            self._skip(job, policy, job.next_run_at, str(error)[:300])
            self._move(job, job.next_run_at, None)
            return
        first, late = len(self.decisions), []
        for tick in ticks:
            if tick > self.now:
                self._claim_ahead(job, policy, tick)
            elif reason := self._barred(job, policy, tick):
                self._skip(job, policy, tick, reason)
            else:
                late.append(tick)
        self._decide_late(job, policy, late)
        mine = sorted(self.decisions[first:], key=lambda decision: decision.tick)
        if unlisted and mine[0].reason:
            mine[0].reason += NOT_LISTED
        self.decisions[first:] = mine
        self._move(job, ticks[-1], upcoming)

    def _ticks(self, job: JobRow) -> tuple[list[datetime], datetime | None, bool]:
        """The undecided ticks, oldest first, the first one after them, and whether there are still older ones."""
        upcoming = self.timetable.first_after(job, job.next_run_at)
        if upcoming is None or upcoming > self.until:
            return [job.next_run_at], upcoming, False
        further = self.timetable.newest_between(job, job.next_run_at, self.until, MISSED_TICKS_KEPT + 1)
        ticks = [job.next_run_at, *further]
        kept = ticks[-MISSED_TICKS_KEPT - 1 :]
        return kept, self.timetable.first_after(job, ticks[-1]), len(ticks) > len(kept)

    def _start_of(self, job: JobRow, policy: Policy, tick: datetime) -> datetime:
        if not policy.jitter_seconds:
            return tick
        return tick + timedelta(milliseconds=int(1000 * spread(job.job_id, tick, policy.jitter_seconds)))

    def _barred(self, job: JobRow, policy: Policy, tick: datetime) -> str | None:
        return bar(job, policy, self.pauses, SCHEDULE, tick, self._start_of(job, policy, tick), self.now)

    def _claim_ahead(self, job: JobRow, policy: Policy, tick: datetime) -> None:
        """Have a tick that comes in a moment at hand. What else there is to decide is decided then."""
        decision = _Decision(job, policy, tick, self._start_of(job, policy, tick), SCHEDULE)
        if decision.start_at <= self.until and self._takes_place():
            decision.claimed = True
            own = self.claim.service_id
            others_run = any(run.service_id != own for run in self.others.get(job.job_id, ()))
            barred = bar(job, policy, self.pauses, SCHEDULE, tick, decision.start_at, self.now) is not None
            decision.contended = barred or (others_run and policy.overlap != "allow")
        self.decisions.append(decision)

    def _decide_late(self, job: JobRow, policy: Policy, ticks: list[datetime]) -> None:
        """Decide, by the policies, the ticks whose time has come and that nothing stands in the way of."""
        if not ticks:
            return
        newest = ticks[-1]
        fresh = newest >= self.claim.running_since and (self.now - newest).total_seconds() <= MISSED_SECONDS
        if policy.missed == "run_all":
            chosen = ticks[-MISSED_TICKS_KEPT:]
        elif fresh or policy.missed == "run_once":
            chosen = [newest]
        else:
            chosen = []
        for tick in ticks[: len(ticks) - len(chosen)]:
            self._skip(job, policy, tick, NOT_RUNNING if tick < self.claim.running_since else TOO_LATE)
        trigger: Trigger = SCHEDULE if fresh and len(chosen) == 1 else MISSED
        for tick in chosen:
            self._decide_overlap(_Decision(job, policy, tick, self._start_of(job, policy, tick), trigger))

    def _decide_overlap(self, decision: _Decision) -> None:
        others = self.others.setdefault(decision.job.job_id, [])
        if decision.start_at > self.until:  # put off by jitter: to be decided then
            self.decisions.append(decision)
            return
        verdict = judge(decision.policy, decision.trigger, others, self.now, self.claim.service_id) if others else GO
        decision.reason, decision.kills, decision.supersedes = verdict.reason, verdict.kills, verdict.supersedes
        decision.claimed = verdict.step == "go" and self._takes_place()
        self.decisions.append(decision)
        if verdict.step != "skip":
            service_id = self.claim.service_id if decision.claimed else ""
            others.append(OpenRun(0, QUEUED, min(decision.start_at, self.now), decision.trigger, service_id))

    def _takes_place(self) -> bool:
        self.places -= 1
        return self.places >= 0

    def _skip(self, job: JobRow, policy: Policy, tick: datetime, reason: str) -> None:
        self.decisions.append(_Decision(job, policy, tick, tick, SCHEDULE, reason))

    def _move(self, job: JobRow, decided: datetime, upcoming: datetime | None) -> None:
        self.moves.append({"id": job.job_id, "revision": job.revision, "next_run_at": upcoming, "due_from": decided})

    def write(self) -> tuple[list[PlannedRun], list[End], bool]:
        """Insert the rows and move the jobs on. Returns claimed runs, skipped ones, and whether to kill any."""
        rows = [decision.row(self.now, self.claim) for decision in self.decisions]
        ids = {(row.job_id, row.scheduled_for): row.id for row in insert_runs(self.session, rows)}
        # The revision that was read decides: a change that came in between is for `arm`.
        update_rows(self.session, JOBS, self.moves, by=["id", "revision"])
        runs, ends = [], []
        replacements = []
        for decision in self.decisions:
            run_id = ids.get((decision.job.job_id, decision.tick))
            if run_id is None:
                continue  # somebody has decided this tick before
            if decision.reason:
                ends.append(never_started(decision.run(run_id), self.now, decision.reason))
            elif decision.claimed:
                runs.append(decision.run(run_id))
            if decision.kills or decision.supersedes:
                replacements.append((run_id, decision.kills, decision.supersedes))
        ends += apply_replacements(self.session, replacements, self.now)
        return runs, ends, any(kills for _, kills, _ in replacements)
