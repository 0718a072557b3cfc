"""The scheduler's loop: looks when something changed or came due, and leaves the work to named steps."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from wsp.cron.notices import alerts
from wsp.cron.planning import arming, planner, queue
from wsp.cron.planning.arming import Cause
from wsp.cron.planning.followups import follow_ups
from wsp.cron.planning.rows import BATCH_JOBS, Batch, Claim
from wsp.cron.server.caretaker import Caretaker
from wsp.cron.server.dispatch import Dispatcher
from wsp.cron.server.offload import Offload
from wsp.cron.server.processes import boot_id
from wsp.cron.server.retention import Retention
from wsp.database import Database, utc_now
from wsp.heartbeat import node_name
from wsp.settings import Settings

TURN_SECONDS = 0.5  # how often the clocks are compared, without the database
HEALTHY_SECONDS = 2.0  # a loop that has not turned for so long is stuck
CLOCK_STEP_SECONDS = 1.0  # clocks that part by more than this were set, or the machine slept
LOOK_SECONDS = 10.0  # should a change have gone unheard
SPACING_SECONDS = 0.05  # between two looks: what is committed together is looked at together
HELD_UP_SECONDS = 0.1  # when somebody else has hold of what is due, or starts another run of its job in a moment
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)  # after trouble with the database; the last one again and again

AHEAD = timedelta(seconds=0.5)
"""How long before they are due ticks are claimed, so that commands start from memory at the very second."""

# Stopping takes the sum of these, up to 1.2 s of killing and some tidying up, and has to be over within 9 s.
STOP_PATIENCE_SECONDS = 5.0
STOP_GRACE_SECONDS = 1.5
STOP_WRITE_SECONDS = 0.7

logger = logging.getLogger(__name__)


class Scheduler:
    """Plans, starts and looks after runs until it is told to stop. Lives on one event loop."""

    def __init__(self, settings: Settings, database: Database, service_id: str) -> None:
        self._settings = settings
        self._claim = Claim(service_id, node_name(), boot_id(), utc_now())
        self._planning = Offload(database, "cron-plan")
        self._tending = Offload(database, "cron-tend")
        self._retention = Retention(settings, self._tending)
        self._dispatcher = Dispatcher(
            settings, database, self._claim, on_free=self._look, on_written=self._retention.written
        )
        self._caretaker = Caretaker(
            self._tending, self._dispatcher, service_id, settings.data_dir, on_given_back=self._look
        )
        self._wake = asyncio.Event()
        self._changed = True  # somebody else may have committed something since the last look
        self._stopping = asyncio.Event()
        self._rearm_wanted: Cause | None = None
        self._has_started_up = False
        self._look_at: datetime | None = None
        self._turned = time.monotonic()

    def is_healthy(self) -> bool:
        """Does the loop turn? May be called from any thread."""
        return time.monotonic() - self._turned < HEALTHY_SECONDS

    def look_again(self) -> None:
        """Something may have changed. Call on the loop."""
        self._changed = True
        self._wake.set()

    def stop(self) -> None:
        """Stop planning, and let `run` come to its end. Call on the loop."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`, then stop in an orderly way."""
        turning = asyncio.create_task(self._keep_turning(), name="turn")
        self._dispatcher.open()
        starting = asyncio.create_task(self._caretaker.look_at_start(), name="recover-at-start")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        tending: list[Coroutine[Any, Any, None]] = [
            self._caretaker.keep_looking(),
            self._retention.keep_pruning(),
            self._retention.keep_sweeping(),
        ]
        tasks = [starting, *map(asyncio.create_task, tending)]
        planning = asyncio.create_task(self._keep_planning(), name="plan")
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        self._dispatcher.start_no_more()
        deadline = time.monotonic() + STOP_PATIENCE_SECONDS
        # What is just being planned is given back as well.
        await asyncio.wait({planning}, timeout=STOP_PATIENCE_SECONDS)
        await self._dispatcher.stop(
            patience=max(0.0, deadline - time.monotonic()), grace=STOP_GRACE_SECONDS, write_within=STOP_WRITE_SECONDS
        )
        for task in (turning, planning):
            task.cancel()
        await asyncio.gather(turning, planning, stopping, *tasks, return_exceptions=True)
        await asyncio.gather(self._planning.close(), self._tending.close())

    def _look(self) -> None:
        self._wake.set()

    async def _keep_planning(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                await self._plan()
            except Exception as error:  # whatever it is, the jobs are still there to be run
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                self._changed = True
                unforeseen = None if isinstance(error, SQLAlchemyError) else error
                logger.error("planning went wrong, again in %s s: %s", pause, error, exc_info=unforeseen)
                await self._pause(pause)
            else:
                failures = 0
                await self._pause(SPACING_SECONDS)
                await self._until_wanted()

    async def _plan(self) -> None:
        """Arm what changed, end what is to be ended, claim what is due or will be in a moment."""
        changed, self._changed = self._changed, False
        if not self._has_started_up:
            await self._start_up()
        if self._rearm_wanted:
            await self._rearm(self._rearm_wanted)
        now = utc_now()
        waiting = await self._planning.read(lambda session: planner.waiting(session, now))
        if waiting.kills:
            await self._end_killed()
        if waiting.unarmed:
            await self._until_done(lambda session: arming.arm(session, utc_now(), self._settings.zone))
            waiting = await self._planning.read(lambda session: planner.waiting(session, now))
        if changed and (runs := self._dispatcher.waiting):
            # Claimed ahead: their jobs may have been changed since, or be gone.
            refresh = partial(queue.refresh, runs=runs, zone=self._settings.zone)
            self._dispatcher.refreshed(await self._planning.read(refresh))
        self._look_at = None
        if waiting.next_due is not None:
            await self._claim_due(waiting.next_due)
        if waiting.queue_due is not None:
            await self._claim_waiting(waiting.queue_due)

    async def _claim_due(self, next_due: datetime) -> None:
        if next_due > utc_now() + AHEAD:
            self._look_by(next_due - AHEAD)
            return
        jobs = await self._take(self._plan_batch)
        self._look_by(utc_now() + timedelta(seconds=0 if jobs else HELD_UP_SECONDS))

    async def _claim_waiting(self, queue_due: datetime) -> None:
        if queue_due > utc_now():
            self._look_by(queue_due)
        elif self._dispatcher.free_places:
            taken = await self._take(self._claim_batch)
            self._look_by(utc_now() + timedelta(seconds=0 if taken else HELD_UP_SECONDS))
        # What is left has to wait for another run, or for a place: its end wakes this loop.

    async def _take(self, step: Callable[[Session], Batch]) -> int:
        """Repeat a step of planning until there is nothing left for it. Returns how many jobs or runs it took up."""
        taken = 0
        while not self._stopping.is_set():
            batch = await self._planning.change(partial(self._told, step=step))
            self._dispatcher.submit(batch.runs)
            self._dispatcher.count(batch.ends)
            if batch.kills:
                await self._end_killed()
            if not batch.jobs:
                break
            taken += batch.jobs
        return taken

    def _told(self, session: Session, step: Callable[[Session], Batch]) -> Batch:
        """Do a step, and tell of the ends that it brings about."""
        batch = step(session)
        if batch.ends:
            now = utc_now()
            follow_ups(session, batch.ends, now)
            alerts.on_ends(session, self._settings, batch.ends, now)
        return batch

    def _plan_batch(self, session: Session) -> Batch:
        now, places = utc_now(), self._dispatcher.free_places
        return planner.plan(session, now, now + AHEAD, self._settings.zone, self._claim, places=places)

    def _claim_batch(self, session: Session) -> Batch:
        limit = min(self._dispatcher.free_places, BATCH_JOBS)
        if not limit:
            return Batch()
        return queue.claim_queued(session, utc_now(), self._settings.zone, self._claim, limit=limit)

    async def _end_killed(self) -> None:
        """End the runs that somebody wants ended."""

        def cancel(session: Session) -> Batch:
            return Batch(ends=queue.cancel_killed(session, utc_now()))

        batch = await self._planning.change(partial(self._told, step=cancel))
        self._dispatcher.count(batch.ends)
        service_id = self._claim.service_id
        wanted = await self._planning.read(lambda session: queue.kills_wanted(session, service_id))
        for run_id, reason, grace in wanted:
            self._dispatcher.kill(run_id, reason, grace)

    async def _start_up(self) -> None:
        """What is done once in the life of a scheduler."""
        zone = self._settings.zone
        self._rearm_wanted = await self._planning.read(lambda session: arming.rearm_wanted(session, utc_now(), zone))
        if self._rearm_wanted is None:
            await self._planning.change(lambda session: arming.remember_zone(session, zone))
        await self._planning.change(lambda session: planner.reboot(session, utc_now(), self._claim))
        self._has_started_up = True

    async def _until_done(self, step: Callable[[Session], object]) -> None:
        """Repeat a step that does a bounded amount of work, each time in a transaction, until it finds none."""
        while await self._planning.change(step) and not self._stopping.is_set():
            pass

    async def _rearm(self, cause: Cause) -> None:
        """Count what is to come anew, after the clock was set or the time zone changed."""
        zone = self._settings.zone
        last: int | None = 0
        while last is not None and not self._stopping.is_set():
            step = partial(arming.rearm, now=utc_now(), zone=zone, cause=cause, after_id=last)
            last = await self._planning.change(step)
        await self._planning.change(lambda session: arming.remember_zone(session, zone))
        self._rearm_wanted = None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _look_by(self, instant: datetime) -> None:
        self._look_at = instant if self._look_at is None else min(instant, self._look_at)

    async def _until_wanted(self) -> None:
        """Sleep until there is something to do: a moment has come, somebody changed something, a place is free."""
        seconds = LOOK_SECONDS
        if self._look_at is not None:
            seconds = min(seconds, max(0.0, (self._look_at - utc_now()).total_seconds()))
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
                self._rearm_wanted = "clock"
                self.look_again()
