"""Jobs and runs as planning reads them: plain rows, for as many objects of the ORM cost more than the decisions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement, Table, literal_column, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from wsp.cron.models import OPEN, QUEUED, RUNNING, CronJob, JobRun
from wsp.cron.planning.work import End, Job, PlannedRun, Result, Status
from wsp.cron.policy import Policy
from wsp.owners import OWNERS

JobRow: TypeAlias = Any
"""A row that has JOB_COLUMNS and whatever else is said where it is taken."""

JOBS = cast(Table, CronJob.__table__)
RUNS = cast(Table, JobRun.__table__)

BATCH_JOBS = 100  # in one transaction: other writers wait for it on SQLite

OWNER_STATUS = OWNERS.c.status.label("owner_status")

JOB_COLUMNS = (
    JOBS.c.id.label("job_id"),
    JOBS.c.owner,
    JOBS.c.name,
    JOBS.c.command,
    JOBS.c.email_on_complete,
    JOBS.c.email_on_error,
    JOBS.c.policy,
    JOBS.c.updated_at,
    JOBS.c.enabled,
    JOBS.c.tags,
    OWNER_STATUS,
)
RUN_COLUMNS = (
    RUNS.c.id.label("run_id"),
    RUNS.c.scheduled_for,
    RUNS.c.start_at,
    RUNS.c.trigger,
    RUNS.c.attempt,
    RUNS.c.cause_run_id,
    RUNS.c.status,
    RUNS.c.service_id,
    RUNS.c.kill_requested_at,
    RUNS.c.kill_reason,
)
JOBS_WITH_OWNERS = JOBS.join(OWNERS, OWNERS.c.username == JOBS.c.owner)
RUNS_WITH_JOBS = RUNS.join(JOBS, JOBS.c.id == RUNS.c.job_id).join(OWNERS, OWNERS.c.username == JOBS.c.owner)


def is_open(runs: Any = RUNS) -> ColumnElement[bool]:
    """The condition of the partial indexes on open runs."""
    return is_one_of(OPEN, runs)


def is_one_of(statuses: Iterable[str], runs: Any = RUNS) -> ColumnElement[bool]:
    """The condition of a partial index, spelled out: a store uses the index for nothing else."""
    condition: ColumnElement[bool] = runs.c.status.in_([literal_column(f"'{status}'") for status in statuses])
    return condition


class OnSqlite(FunctionElement[bool]):
    """A condition that follows from the others, and is there to have SQLite use a partial index.

    PostgreSQL sees that itself. Told of it as well, it takes the two for a list of values to look for, and sorts all
    that it finds instead of reading in the order of the index until there is enough.
    """

    inherit_cache = True  # no type: as a Boolean it would be compared with 1


@compiles(OnSqlite)
def _left_out(_element: OnSqlite, _compiler: SQLCompiler, **_options: Any) -> str:
    return "true"


@compiles(OnSqlite, "sqlite")
def _as_it_is(element: OnSqlite, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


def job_of(row: JobRow) -> Job:
    """The job in a row that has JOB_COLUMNS."""
    return Job(
        row.job_id,
        row.owner,
        row.name,
        row.command,
        row.email_on_complete,
        row.email_on_error,
        Policy.of(row.policy),
        row.updated_at,
    )


def run_of(row: JobRow, *, contended: bool = False) -> PlannedRun:
    """The run in a row that has JOB_COLUMNS and RUN_COLUMNS."""
    return PlannedRun(
        row.run_id,
        job_of(row),
        row.scheduled_for,
        row.start_at or row.scheduled_for,
        row.trigger,
        row.attempt,
        row.cause_run_id,
        contended,
    )


def never_started(run: PlannedRun, now: datetime, reason: str, status: Status = "skipped") -> End:
    """The end of a run whose command was not started."""
    return End(run, Result(status=status, started_at=None, finished_at=now, reason=reason))


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not over, seen by another one of the same job."""

    run_id: int
    status: str
    start_at: datetime
    trigger: str
    service_id: str  # "" while it waits
    is_ending: bool = False  # somebody wants it killed

    def is_active(self, now: datetime) -> bool:
        """Does it run, or may it have been started?"""
        return self.status == RUNNING or (bool(self.service_id) and self.start_at <= now)

    def is_waiting(self, now: datetime) -> bool:
        """Is it due, and waits for its turn?"""
        return self.status == QUEUED and not self.service_id and self.start_at <= now


def open_runs(session: Session, job_ids: Iterable[int]) -> dict[int, list[OpenRun]]:
    """The runs of these jobs that are not over, those first that are due first."""
    query = select(
        RUNS.c.job_id,
        RUNS.c.id,
        RUNS.c.status,
        RUNS.c.start_at,
        RUNS.c.scheduled_for,
        RUNS.c.trigger,
        RUNS.c.service_id,
        RUNS.c.kill_requested_at,
    ).where(RUNS.c.job_id.in_(sorted(set(job_ids))), is_open())
    found: dict[int, list[OpenRun]] = {}
    for row in session.execute(query):
        found.setdefault(row.job_id, []).append(
            OpenRun(
                row.id,
                row.status,
                row.start_at or row.scheduled_for,
                row.trigger,
                row.service_id,
                row.kill_requested_at is not None,
            )
        )
    for runs in found.values():
        runs.sort(key=lambda run: (run.start_at, run.run_id))
    return found


@dataclass(frozen=True, slots=True)
class Claim:
    """Who plans: written into the rows of its runs."""

    service_id: str
    node: str
    boot_id: str
    running_since: datetime  # ticks before this were missed because no scheduler ran

    @property
    def columns(self) -> dict[str, str]:
        """What a claimed run says of its scheduler."""
        return {"service_id": self.service_id, "node": self.node, "boot_id": self.boot_id}


UNCLAIMED = {"service_id": "", "node": "", "boot_id": ""}


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step did. Start `runs` when their `start_at` has come, once the caller has committed."""

    runs: Sequence[PlannedRun] = ()  # claimed; a contended one is to be settled when it is due
    ends: Sequence[End] = ()  # recorded as skipped or killed
    jobs: int = 0  # of how many jobs or runs it changed anything; 0: there was nothing left to do
    kills: bool = False  # it wants running ones killed: see `kills_wanted`
