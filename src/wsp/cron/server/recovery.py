"""Runs whose scheduler died: nothing stays open for ever, nothing is started twice, and nothing of a lost command goes
on unseen.

A scheduler writes down each runner that it has, before it gives it the first order. So whoever finds a claimed run
of a dead scheduler knows which runners may have its command.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from wsp.cron.folders import OUTPUTS
from wsp.cron.models import OPEN, QUEUED, CronState, JobRun
from wsp.cron.planning.bulk import update_rows
from wsp.cron.planning.rows import (
    JOB_COLUMNS,
    JOBS,
    RUN_COLUMNS,
    RUNS,
    RUNS_WITH_JOBS,
    UNCLAIMED,
    Claim,
    JobRow,
    is_open,
    run_of,
)
from wsp.cron.planning.work import PlannedRun, Result
from wsp.cron.runner import spool
from wsp.cron.runner.orders import Output
from wsp.cron.server.processes import Process, boot_id, end_tree, start_time
from wsp.heartbeat import STALE_SECONDS, ServiceRow, node_name

# A machine that cannot reach the database looks dead from here while its commands go on: it gets more time.
OTHER_NODE_STALE_SECONDS = 60.0

# So does a scheduler of this machine whose reports the database does not take, as long as its process is there.
LIVING_PROCESS_STALE_SECONDS = 30.0

SUSPECT_SECONDS = 2.0

GRACE_SECONDS = 1.5

GONE = "The scheduler that ran it was gone before it ended"
LOST_TRACK = "The scheduler could not write down that it was to start, or what came of it"
RUNNER_GONE = "The process that ran it was gone before it ended"

_RUNNERS = "runners:"  # and a scheduler's id: the name under which its runners are written down

_RUNS = (
    select(
        *JOB_COLUMNS,
        *RUN_COLUMNS,
        *(RUNS.c[name] for name in ("service_id", "runner_id", "node", "boot_id", "pid", "pid_started", "started_at")),
    )
    .select_from(RUNS_WITH_JOBS)
    .order_by(RUNS.c.id)
)

_CLAIMS = select(RUNS.c.id, RUNS.c.service_id).where(is_open(), RUNS.c.service_id != "")

_SECOND = timedelta(seconds=1)  # between two ticks, at least

_SILENTLY = {"synchronize_session": False}


def run_mark(runner_id: str, run_id: int) -> str:
    """What the processes of a run carry in their environment."""
    return f"{runner_id}-{run_id}"


# --- What a scheduler writes down for those who come after it ---------------------------------------------------


def remember_runner(session: Session, service_id: str, runner_id: str) -> None:
    """Write down that this scheduler has this runner. Commit it before the runner gets its first order."""
    state = session.get(CronState, _RUNNERS + service_id)
    if state is None:
        session.add(CronState(name=_RUNNERS + service_id, value=runner_id))
    elif runner_id not in state.value.split():
        state.value = f"{state.value} {runner_id}"


def forget_runners(session: Session) -> None:
    """Forget the runners of schedulers that have neither a report nor a run."""
    service = func.substr(CronState.name, len(_RUNNERS) + 1)
    session.execute(
        delete(CronState).where(
            CronState.name.startswith(_RUNNERS),
            ~exists().where(ServiceRow.id == service),
            ~exists().where(JobRun.service_id == service, is_open()),
        ),
        execution_options=_SILENTLY,
    )


def _runners_of(session: Session, service_ids: Collection[str]) -> dict[str, frozenset[str]]:
    names = [_RUNNERS + service_id for service_id in service_ids]
    states = session.scalars(select(CronState).where(CronState.name.in_(names)))
    return {state.name.removeprefix(_RUNNERS): frozenset(state.value.split()) for state in states}


# --- Claims ------------------------------------------------------------------------------------------------------


def still_claimed(session: Session, run_ids: Iterable[int], service_id: str) -> set[int]:
    """Those of these runs that this scheduler may still start."""
    mine = JobRun.id.in_(run_ids), JobRun.service_id == service_id, JobRun.status == QUEUED
    return set(session.scalars(select(JobRun.id).where(*mine)))


def give_back(session: Session, run_ids: Iterable[int], service_id: str) -> None:
    """Let go of runs that no runner was told of: any scheduler may claim them.

    The newest tick of a job is undecided again. Who comes next, and maybe late, decides it by the job's policies: from
    the queue it would start however late that is, and beside the ticks that were missed after it.
    """
    run_ids = list(run_ids)
    _undecide(session, run_ids, service_id)
    session.execute(
        update(JobRun)
        .where(JobRun.id.in_(run_ids), JobRun.service_id == service_id, JobRun.status == QUEUED)
        .values(**UNCLAIMED),
        execution_options=_SILENTLY,
    )


def _undecide(session: Session, run_ids: Collection[int], service_id: str) -> None:
    ticks = session.execute(
        select(RUNS.c.id, RUNS.c.scheduled_for, JOBS.c.id.label("job_id"), JOBS.c.revision)
        .select_from(RUNS_WITH_JOBS)
        .where(
            RUNS.c.id.in_(run_ids),
            RUNS.c.service_id == service_id,
            RUNS.c.status == QUEUED,
            RUNS.c.trigger == "schedule",
            RUNS.c.kill_requested_at.is_(None),
            # Else the job was changed since then, and what is due before its change is not for its new policies.
            JOBS.c.due_from == RUNS.c.scheduled_for,
            JOBS.c.revision == JOBS.c.armed_revision,
            # In a way that no index serves: SQLite would walk the one on it, through all jobs there are.
            JOBS.c.enabled.is_not(False),
        )
        .order_by(JOBS.c.id)
        .with_for_update(of=[RUNS, JOBS], key_share=True)
    ).all()
    if not ticks:
        return
    session.execute(delete(JobRun).where(JobRun.id.in_([tick.id for tick in ticks])), execution_options=_SILENTLY)
    moves = [
        {
            "id": tick.job_id,
            "revision": tick.revision,
            "next_run_at": tick.scheduled_for,
            "due_from": tick.scheduled_for - _SECOND,
        }
        for tick in ticks
    ]
    update_rows(session, JOBS, moves, by=["id", "revision"])


class Going(NamedTuple):
    """A run whose command another scheduler had started, or was about to."""

    run: PlannedRun
    process: Process | None
    started_at: datetime | None


@dataclass(frozen=True)
class Inherited:
    """What the rows say of the runs that an adopted runner has."""

    open: Mapping[int, Going]  # ours from now on
    over: frozenset[int]  # somebody has written down an end already


def inherit(session: Session, run_ids: Collection[int], runner_id: str, claim: Claim) -> Inherited:
    """Make the open ones of these runs, which runner `runner_id` has, runs of this scheduler."""
    rows = session.execute(_RUNS.where(RUNS.c.id.in_(run_ids)).with_for_update(of=RUNS)).all()
    ours = {row.run_id: Going(run_of(row), _process(row), row.started_at) for row in rows if row.status in OPEN}
    session.execute(
        update(JobRun)
        .where(JobRun.id.in_(ours))
        .values(service_id=claim.service_id, node=claim.node, boot_id=claim.boot_id, runner_id=runner_id),
        execution_options=_SILENTLY,
    )
    return Inherited(ours, frozenset(row.run_id for row in rows if row.status not in OPEN))


# --- Orphans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Orphan:
    """A claimed run that is not over, of which nobody alive takes care."""

    run: PlannedRun
    status: str
    started_at: datetime | None
    service_id: str
    node: str
    boot_id: str
    process: Process | None
    runners: frozenset[str]  # those that may have its command
    is_certain: bool = False  # nobody has to look twice

    @property
    def marks(self) -> set[str]:
        """The marks that its command may have been started with."""
        return {run_mark(runner, self.run.run_id) for runner in self.runners}

    def was_never_started(self, now: datetime, met: Collection[str]) -> bool:
        """Can it be told that no command was started? `met` are runners that were asked, and do not know the run."""
        if self.status != QUEUED:
            return False
        return self.run.start_at > now or (self.node == node_name() and self.runners <= set(met))


def find_orphans(
    session: Session, now: datetime, *, service_id: str, active: Collection[int], met: Collection[str] = ()
) -> list[Orphan]:
    """Claimed runs of schedulers without a heartbeat, and runs of this one (`service_id`) that are not `active`.

    `met` are the runners that this scheduler has, or had: a scheduler of this machine whose process is gone, and whose
    runners we have, is certainly dead.
    """
    claims = session.connection().execute(_CLAIMS)
    suspects = [row.id for row in claims if row.service_id != service_id or row.id not in active]
    if not suspects:
        return []
    rows = session.execute(_RUNS.where(RUNS.c.id.in_(suspects))).all()
    services = {service.id: service for service in session.scalars(select(ServiceRow).where(ServiceRow.kind == "cron"))}
    runners = _runners_of(session, {row.service_id for row in rows})
    orphans = []
    for row in rows:
        if row.status not in OPEN or not row.service_id:  # since the first question
            continue
        its_runners = runners.get(row.service_id, frozenset())
        known = frozenset((row.runner_id,)) if row.runner_id else its_runners
        service = services.get(row.service_id)
        if _is_buried(row, service, its_runners, met) and row.service_id != service_id:
            orphans.append(_orphan(row, known, is_certain=True))
        elif row.service_id == service_id or _is_unheard(row, service, now):
            orphans.append(_orphan(row, known))
    return orphans


def _is_buried(row: JobRow, service: ServiceRow | None, runners: frozenset[str], met: Collection[str]) -> bool:
    """Is its scheduler dead for sure? Then its process is gone, and its runners speak to us."""
    if row.node != node_name() or not runners or not runners <= set(met):
        return False
    return service is None or service.pid == os.getpid() or start_time(service.pid) is None


def _is_unheard(row: JobRow, service: ServiceRow | None, now: datetime) -> bool:
    if service is None and row.node == node_name():
        return True
    # A report that was forgotten, or signed off, on another machine: be patient all the same.
    heard = service.heartbeat_at if service else row.started_at or row.start_at
    return heard is None or now - heard > timedelta(seconds=_patience(row, service))


def _patience(row: JobRow, service: ServiceRow | None) -> float:
    if row.node != node_name():
        return OTHER_NODE_STALE_SECONDS
    # In a container that was started again, the pid of the dead may well be the own one.
    lives = service is not None and service.pid != os.getpid() and start_time(service.pid) is not None
    return LIVING_PROCESS_STALE_SECONDS if lives else STALE_SECONDS


def _orphan(row: JobRow, runners: frozenset[str], *, is_certain: bool = False) -> Orphan:
    return Orphan(
        run=run_of(row),
        status=row.status,
        started_at=row.started_at,
        service_id=row.service_id,
        node=row.node,
        boot_id=row.boot_id,
        process=_process(row),
        runners=runners,
        is_certain=is_certain,
    )


def _process(row: JobRow) -> Process | None:
    return None if row.pid is None or row.pid_started is None else Process(row.pid, row.pid_started)


@dataclass
class Suspicion:
    """Remembers since when a run has looked like an orphan. One look is not enough: after the database was away
    for a while, everybody's heartbeat is late, and a run that is being planned is not yet among the active."""

    since: dict[int, float] = field(default_factory=dict)

    def confirmed(self, orphans: Sequence[Orphan], clock: float) -> list[Orphan]:
        """Those that are certain, or have looked so for SUSPECT_SECONDS of `clock` (monotonic seconds) on end."""
        self.since = {orphan.run.run_id: self.since.get(orphan.run.run_id, clock) for orphan in orphans}
        return [
            orphan
            for orphan in orphans
            if orphan.is_certain or clock - self.since[orphan.run.run_id] >= SUSPECT_SECONDS
        ]


def end_commands(orphans: Sequence[Orphan]) -> int:
    """End what is left of their commands on this machine. Blocks up to a few seconds. Returns how many processes."""
    here = [orphan for orphan in orphans if orphan.node == node_name() and orphan.boot_id == boot_id()]
    if not here:
        return 0
    leaders = [orphan.process for orphan in here if orphan.process is not None]
    return end_tree(set().union(*(orphan.marks for orphan in here)), leaders, grace=GRACE_SECONDS)


def lost(orphan: Orphan, now: datetime, service_id: str, output: Output) -> Result:
    """What is recorded for an orphan by this scheduler (`service_id`). `output` is what was found of it."""
    reason = LOST_TRACK if orphan.service_id == service_id else GONE
    return Result(status="lost", started_at=orphan.started_at, finished_at=now, reason=reason, output=output)


def output_left(data_dir: Path, run_id: int) -> Output:
    """What a runner that died has left of a run's output. Blocks for a disk."""
    try:
        frames, total, is_all = spool.gather(data_dir / OUTPUTS, run_id)
    except OSError:
        return Output()
    return Output(frames, total, in_file=not is_all)
