"""From a planned run to its command and back: starts it, waits for it, writes down what came of it.

In process: each run is a task on the scheduler's event loop. Database work happens on threads of its own, so that
a database that is locked or away delays neither commands nor the loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from wsp.cron import executor
from wsp.cron.offload import Offload
from wsp.cron.planner import PlannedRun
from wsp.cron.processes import end_tree
from wsp.cron.records import Result, record_end, record_start
from wsp.cron.recovery import run_mark
from wsp.database import Database, utc_now
from wsp.homes import home_dir, make_home
from wsp.owners import OWNERS
from wsp.settings import Settings

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # the last one again and again
STORE_THREADS = 4
START_THREADS = 4

STOPPED = "The scheduler was stopped"

logger = logging.getLogger(__name__)

T = TypeVar("T")

Announce = Callable[[PlannedRun, Result, str], None]


@dataclass
class _Active:
    run: PlannedRun
    task: "asyncio.Task[None]"
    command: executor.Started | None = None
    ended_by_us: bool = False


class Dispatcher:
    """The running commands of this scheduler. Lives on one event loop.

    `announce` is told of the end of every run, with the e-mail address of its owner; `on_free` when a place is free.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        service_id: str,
        *,
        announce: Announce,
        on_free: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._service_id = service_id
        self._announce = announce
        self._on_free = on_free
        self._active: dict[int, _Active] = {}
        self._stopping = False
        self._store = Offload(database, "cron-store", STORE_THREADS)
        self._starter = Offload(database, "cron-start", START_THREADS)

    @property
    def run_ids(self) -> set[int]:
        """The runs that are taken care of here."""
        return set(self._active)

    @property
    def free_places(self) -> int:
        """How many more commands may be started now."""
        return max(0, self._settings.cron_max_running - len(self._active))

    def submit(self, run: PlannedRun) -> None:
        """Start a run whose row is committed."""
        task = asyncio.create_task(self._run(run), name=f"run-{run.run_id}")
        self._active[run.run_id] = _Active(run, task)

    def start_no_more(self) -> None:
        """From now on, a run that is submitted is recorded as killed instead of being started."""
        self._stopping = True

    async def stop(self, *, patience: float, grace: float, write_within: float) -> None:
        """Let commands go on for `patience` seconds, then end their trees: SIGTERM, SIGKILL after `grace` seconds.

        What came of them is written, for which there are `write_within` seconds more: with a database that is away,
        the next scheduler finds the rows and marks them lost.
        """
        deadline = time.monotonic() + patience
        while (tasks := {active.task for active in self._active.values()}) and time.monotonic() < deadline:
            await asyncio.wait(tasks, timeout=deadline - time.monotonic())
        if tasks:
            running = list(self._active.values())
            logger.info("ending %s commands: the scheduler stops", len(running))
            for active in running:
                active.ended_by_us = True
            marks = {run_mark(self._service_id, active.run.run_id) for active in running}
            leaders = [active.command.process for active in running if active.command]
            await self._starter.call(lambda: end_tree(marks, leaders, grace=grace))
            _, tasks = await asyncio.wait(tasks, timeout=write_within)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(self._starter.close(), self._store.close())

    async def record(self, run: PlannedRun, result: Result) -> None:
        """Write the end of a run, however long that takes, then have it announced."""
        owner_email = await self._write(
            lambda session: self._record_end(session, run, result), f"end of run {run.run_id}"
        )
        if owner_email is None:
            logger.info("run %s: its job was deleted, or it was ended by somebody else", run.run_id)
        else:
            self._announce(run, result, owner_email)

    async def _run(self, run: PlannedRun) -> None:
        try:
            await self.record(run, await self._execute(run))
        except Exception:  # one run must not end the scheduler; recovery finds a row that still says running
            logger.exception("run %s of job %s went wrong", run.run_id, run.job_id)
        finally:
            del self._active[run.run_id]
            self._on_free()

    async def _execute(self, run: PlannedRun) -> Result:
        """Run the command. Everything that can go wrong with it is a result."""
        active = self._active[run.run_id]
        if self._stopping:  # planned just before
            return Result(status="killed", started_at=None, finished_at=utc_now(), reason=STOPPED)
        started_at, clock = utc_now(), time.monotonic()
        try:
            active.command = await self._starter.call(lambda: self._start(run))
        except executor.CannotStart as error:
            return Result(
                status="failed", started_at=started_at, finished_at=utc_now(), duration_ms=0, output=str(error)
            )
        process = active.command.process
        writing = asyncio.create_task(
            self._write(
                lambda session: record_start(session, run.run_id, process, started_at), f"start of run {run.run_id}"
            )
        )
        try:
            outcome = await executor.finish(active.command, self._settings.cron_max_output_bytes)
        finally:
            # Its end is written next, and says more.
            writing.cancel()
        killed = active.ended_by_us
        return Result(
            status="killed" if killed else "succeeded" if outcome.exit_code == 0 else "failed",
            reason=STOPPED if killed else "",
            started_at=started_at,
            finished_at=max(utc_now(), started_at),  # the clock may have been set back
            exit_code=outcome.exit_code,
            duration_ms=round((time.monotonic() - clock) * 1000),
            output=outcome.output,
            output_truncated=outcome.output_truncated,
        )

    def _start(self, run: PlannedRun) -> executor.Started:
        try:
            home = make_home(self._settings.files, home_dir(run.owner))
        except OSError as error:
            logger.error("run %s: no home folder for %s: %s", run.run_id, run.owner, error)
            raise executor.CannotStart("The command could not be started: its home folder cannot be used") from error
        mark = run_mark(self._service_id, run.run_id)
        return executor.start(run.command, folder=home, environment=executor.environment(run.owner, home, mark))

    def _record_end(self, session: Session, run: PlannedRun, result: Result) -> str | None:
        """Write the end. Returns the owner's address, None when there was nothing to write to."""
        written = record_end(session, run.run_id, run.job_id, result, keep_runs=self._settings.cron_keep_runs)
        if not written:
            return None
        return session.scalar(select(OWNERS.c.email).where(OWNERS.c.username == run.owner)) or ""

    async def _write(self, step: Callable[[Session], T], what: str) -> T:
        """Do `step` in a transaction, again and again until it is committed: a database that is away comes back."""

        for attempt in count():
            try:
                return await self._store.change(step)
            except (OperationalError, InterfaceError, NoConnectionFree) as error:
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                logger.warning("the %s is not written yet, again in %s s: %s", what, pause, error)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")
