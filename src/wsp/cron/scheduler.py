"""The scheduler's loop: looks when something changed or came due, and leaves the work to named steps."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from wsp.cron import planner
from wsp.cron.caretaker import Caretaker
from wsp.cron.dispatch import Dispatcher
from wsp.cron.notify import Mailer
from wsp.cron.offload import Offload
from wsp.cron.planner import Claim
from wsp.cron.processes import boot_id
from wsp.database import Database, utc_now
from wsp.heartbeat import node_name
from wsp.settings import Settings

TURN_SECONDS = 0.5  # how often the clocks are compared, without the database
HEALTHY_SECONDS = 2.0  # a loop that has not turned for so long is stuck
CLOCK_STEP_SECONDS = 1.0  # clocks that part by more than this were set, or the machine slept
LOOK_SECONDS = 10.0  # should a change have gone unheard
SPACING_SECONDS = 0.02  # between two looks: what is committed together is looked at together
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)  # after trouble with the database; the last one again and again

# Stopping takes the sum of these, up to a second of killing and some tidying up, and has to be over within 9 s.
STOP_PATIENCE_SECONDS = 5.0
STOP_GRACE_SECONDS = 1.5
STOP_WRITE_SECONDS = 0.7
STOP_MAIL_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Scheduler:
    """Plans, starts and looks after runs until it is told to stop. Lives on one event loop."""

    def __init__(self, settings: Settings, database: Database, service_id: str) -> None:
        self._settings = settings
        self._claim = Claim(service_id, node_name(), boot_id(), utc_now())
        self._mailer = Mailer(settings)
        self._dispatcher = Dispatcher(
            settings, database, service_id, announce=self._mailer.announce, on_free=self.look_again
        )
        self._planning = Offload(database, "cron-plan")
        self._recovering = Offload(database, "cron-recover")
        self._caretaker = Caretaker(self._recovering, self._dispatcher, service_id)
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._rearm_wanted = True  # the time zone may be another than the last scheduler's
        self._next_due: datetime | None = None
        self._turned = time.monotonic()

    def is_healthy(self) -> bool:
        """Does the loop turn? May be called from any thread."""
        return time.monotonic() - self._turned < HEALTHY_SECONDS

    def look_again(self) -> None:
        """Something may have changed. Call on the loop."""
        self._wake.set()

    def stop(self) -> None:
        """Stop planning, and let `run` come to its end. Call on the loop."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`, then stop in an orderly way."""
        turning = asyncio.create_task(self._keep_turning(), name="turn")
        starting = asyncio.create_task(self._caretaker.look_at_start(), name="recover-at-start")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        recovering = asyncio.create_task(self._caretaker.keep_looking(), name="recover")
        planning = asyncio.create_task(self._keep_planning(), name="plan")
        await self._stopping.wait()
        for task in (starting, recovering):
            task.cancel()
        self._dispatcher.start_no_more()
        deadline = time.monotonic() + STOP_PATIENCE_SECONDS
        # What is just being planned gets its end written as well.
        await asyncio.wait({planning}, timeout=STOP_PATIENCE_SECONDS)
        await self._dispatcher.stop(
            patience=max(0.0, deadline - time.monotonic()), grace=STOP_GRACE_SECONDS, write_within=STOP_WRITE_SECONDS
        )
        await self._mailer.stop(STOP_MAIL_SECONDS)
        for task in (turning, planning):
            task.cancel()
        await asyncio.gather(turning, planning, starting, recovering, stopping, return_exceptions=True)
        await asyncio.gather(self._planning.close(), self._recovering.close())

    async def _keep_planning(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                await self._plan()
            except Exception as error:  # whatever it is, the jobs are still there to be run
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                unforeseen = None if isinstance(error, SQLAlchemyError) else error
                logger.error("planning went wrong, again in %s s: %s", pause, error, exc_info=unforeseen)
                await self._pause(pause)
            else:
                failures = 0
                await self._pause(SPACING_SECONDS)
                await self._until_wanted()

    async def _plan(self) -> None:
        """Arm what changed, start what is due."""
        if self._rearm_wanted:
            await self._rearm()
        now = utc_now()
        waiting = await self._planning.read(planner.waiting)
        if waiting.unarmed:
            await self._until_done(lambda session: planner.arm(session, utc_now(), self._settings.zone))
            waiting = await self._planning.read(planner.waiting)
        self._next_due = waiting.next_due
        if waiting.next_due is not None and waiting.next_due <= now:
            await self._until_done(self._skip_barred)
            await self._start_due()
            # A job that stays overdue waits for a place, and a run that ends wakes this loop.
            self._next_due = await self._planning.read(lambda session: planner.next_due_after(session, now))

    async def _until_done(self, step: Callable[[Session], object]) -> None:
        """Repeat a step that does a bounded amount of work, each time in a transaction, until it finds none."""
        while await self._planning.change(step) and not self._stopping.is_set():
            pass

    def _skip_barred(self, session: Session) -> int:
        keep_runs = self._settings.cron_keep_runs
        return planner.skip_barred(session, utc_now(), self._settings.zone, self._claim, keep_runs=keep_runs)

    async def _start_due(self) -> None:
        while not self._stopping.is_set():
            limit = min(self._dispatcher.free_places, planner.BATCH_JOBS)
            if not limit:
                return
            batch = await self._planning.change(partial(self._plan_batch, limit=limit))
            for run in batch.runs:
                self._dispatcher.submit(run)
            if not batch.jobs:
                return

    def _plan_batch(self, session: Session, limit: int) -> planner.Batch:
        keep_runs = self._settings.cron_keep_runs
        return planner.plan(session, utc_now(), self._settings.zone, self._claim, keep_runs=keep_runs, limit=limit)

    async def _rearm(self) -> None:
        """Count what is to come anew, after the clock was set or the time zone changed."""
        last: int | None = 0
        while last is not None and not self._stopping.is_set():
            step = partial(planner.rearm, now=utc_now(), zone=self._settings.zone, after_id=last)
            last = await self._planning.change(step)
        self._rearm_wanted = False

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _until_wanted(self) -> None:
        """Sleep until the next due second, a change, or a clock that was set."""
        seconds = LOOK_SECONDS
        if self._next_due is not None:
            seconds = min(seconds, max(0.0, (self._next_due - utc_now()).total_seconds()))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _keep_turning(self) -> None:
        """Show that the loop turns, and notice when the wall clock leaves the one that nobody can set."""
        apart = time.time() - time.monotonic()
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(TURN_SECONDS)
            step = time.time() - time.monotonic() - apart
            if abs(step) > CLOCK_STEP_SECONDS:
                logger.warning("the clock was set by %.1f s, or the machine slept", step)
                apart += step
                self._rearm_wanted = True
                self.look_again()
