"""How many runs a job's log keeps, and for how long; and that no files stay of runs that are gone."""

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, false, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from wsp.cron.folders import OUTPUTS
from wsp.cron.models import OPEN
from wsp.cron.planning.rows import JOBS, RUNS
from wsp.cron.planning.work import PlannedRun
from wsp.cron.policy import Policy
from wsp.cron.runner import spool
from wsp.cron.server.offload import Offload
from wsp.database import utc_now
from wsp.settings import Settings

PRUNE_SECONDS = 1.0  # between two transactions of pruning
PRUNE_JOBS = 50  # in one of them
SLACK = 20  # one 20th more than are to be kept may pile up
SWEEP_FIRST_SECONDS = 60.0
SWEEP_SECONDS = 6 * 3600.0
SWEEP_ROWS = 1000  # looked at in one transaction
SWEEP_PAUSE_SECONDS = 0.1
YOUNG = timedelta(days=1)  # runs younger than this are kept for their days in any case

logger = logging.getLogger(__name__)


def prune(session: Session, job_id: int, keep: int, before: datetime | None = None) -> list[int]:
    """Delete the runs of a job that are older than its newest `keep`, or ended before `before`. Open ones stay.

    Walks `keep` entries of an index. Returns the ids of those whose output is in files.
    """
    oldest_kept = (
        select(RUNS.c.id)
        .where(RUNS.c.job_id == job_id)
        .order_by(RUNS.c.id.desc())
        .offset(keep - 1)
        .limit(1)
        .scalar_subquery()
    )
    too_many = RUNS.c.id < oldest_kept
    too_old = RUNS.c.finished_at < before if before is not None else false()
    statement = delete(RUNS).where(RUNS.c.job_id == job_id, or_(too_many, too_old), RUNS.c.status.not_in(OPEN))
    gone = session.execute(statement.returning(RUNS.c.id, RUNS.c.output_in_file)).all()
    return [row.id for row in gone if row.output_in_file]


def prune_jobs(session: Session, settings: Settings, job_ids: Iterable[int], now: datetime) -> list[int]:
    """Prune these jobs, each by its policy. Returns the ids of the runs whose output is in files."""
    policies = session.execute(select(JOBS.c.id, JOBS.c.policy).where(JOBS.c.id.in_(job_ids))).all()
    gone: list[int] = []
    for row in sorted(policies, key=lambda row: row.id):
        policy = Policy.of(row.policy)
        days = policy.keep_days or settings.cron_keep_days
        before = now - timedelta(days=days) if days else None
        gone += prune(session, row.id, policy.keep_runs or settings.cron_keep_runs, before)
    return gone


class Retention:
    """Removes, little by little, what is not to be kept. Lives on one event loop."""

    def __init__(self, settings: Settings, offload: Offload) -> None:
        self._settings = settings
        self._offload = offload
        self._outputs = settings.data_dir / OUTPUTS
        self._due: set[int] = set()

    def written(self, runs: Sequence[PlannedRun]) -> None:
        """Ends of runs were written. Now and then, their jobs are due to be pruned."""
        for run in runs:
            keep = run.job.policy.keep_runs or self._settings.cron_keep_runs
            # By chance, so that nothing has to be remembered of a million jobs.
            if keep < 2 * SLACK or random.random() < SLACK / keep:  # noqa: S311 - no secret
                self._due.add(run.job.id)

    async def keep_pruning(self) -> None:
        """Prune what is due, until cancelled."""
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            while self._due:
                jobs = [self._due.pop() for _ in range(min(PRUNE_JOBS, len(self._due)))]
                try:
                    await self._prune(jobs)
                except SQLAlchemyError as error:
                    logger.warning("old runs are not removed yet: %s", error)
                    self._due.update(jobs)
                    break
                await asyncio.sleep(SWEEP_PAUSE_SECONDS)

    async def keep_sweeping(self) -> None:
        """Every now and then, look at what no run brings up: jobs that do not run any more, and files without a run."""
        pause = SWEEP_FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = SWEEP_SECONDS
            try:
                await self.sweep()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("old runs are not removed yet: %s", error)

    async def sweep(self) -> None:
        """Prune every job that has old runs, and remove files that belong to no run."""
        last: int | None = 0
        while last is not None:
            jobs, last = await self._offload.read(lambda session, after=last: _old_runs(session, after, utc_now()))  # type: ignore[misc]
            for begin in range(0, len(jobs), PRUNE_JOBS):
                await self._prune(jobs[begin : begin + PRUNE_JOBS])
                await asyncio.sleep(SWEEP_PAUSE_SECONDS)
        found = await self._offload.call(lambda: list(spool.swept(self._outputs)))
        for begin in range(0, len(found), SWEEP_ROWS):
            some = found[begin : begin + SWEEP_ROWS]
            wanted = await self._offload.read(lambda session, some=some: _with_files(session, some))  # type: ignore[misc]
            await self._remove(run_id for run_id in some if run_id not in wanted)
            await asyncio.sleep(SWEEP_PAUSE_SECONDS)

    async def _prune(self, job_ids: Sequence[int]) -> None:
        gone = await self._offload.change(lambda session: prune_jobs(session, self._settings, job_ids, utc_now()))
        await self._remove(gone)

    async def _remove(self, run_ids: Iterable[int]) -> None:
        def removing() -> None:
            for run_id in run_ids:
                try:
                    spool.remove(self._outputs, run_id)
                except OSError as error:
                    logger.warning("the output of run %s is not removed: %s", run_id, error)

        await self._offload.call(removing)


def _old_runs(session: Session, after_id: int, now: datetime) -> tuple[list[int], int | None]:
    """The jobs of some runs that are not young, and the id to go on after; None when there are no more."""
    rows = session.execute(
        select(RUNS.c.id, RUNS.c.job_id, RUNS.c.finished_at)
        .where(RUNS.c.id > after_id)
        .order_by(RUNS.c.id)
        .limit(SWEEP_ROWS)
    ).all()
    jobs = {row.job_id for row in rows if row.finished_at is not None and row.finished_at < now - YOUNG}
    # Ids grow with time, about: where all are young, so are the rest.
    return sorted(jobs), rows[-1].id if rows and jobs else None


def _with_files(session: Session, run_ids: Sequence[int]) -> set[int]:
    """Those of these runs whose files are wanted: they are not over, or their output is nowhere else."""
    wanted = or_(RUNS.c.status.in_(OPEN), RUNS.c.output_in_file)
    return set(session.scalars(select(RUNS.c.id).where(RUNS.c.id.in_(run_ids), wanted)))
