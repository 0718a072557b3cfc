"""Group commit: what happens to runs is written by one writer, and what comes together in one transaction.

While one transaction goes on, the next one collects. A database that is away, or locked, delays neither commands nor
the loop: what was to be written waits.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from wsp.counters import Counters, Histogram, add_to_stored
from wsp.cron.notices import alerts
from wsp.cron.planning.followups import follow_ups, will_retry
from wsp.cron.planning.work import End, PlannedRun
from wsp.cron.server.offload import Offload
from wsp.cron.server.records import Closing, Start, lock_jobs, record_ends, record_starts
from wsp.database import utc_now
from wsp.settings import Settings

AWAY = (OperationalError, InterfaceError, NoConnectionFree)
"""What a database raises that is away or busy, and comes back."""

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # the last one again and again

LARGEST_BATCH = 500  # other writers wait for it on SQLite
SPACING_SECONDS = 0.05  # between two transactions: under load, each of them has something to carry
POLL_SECONDS = 0.01  # when it is closed
START_SECONDS = 0.1  # a command that ends before is written once, with its end
COUNT_SECONDS = 1.0  # how often counters are written

LATENESS = Histogram("cron_start_lateness_seconds", (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300))
DURATION = Histogram(
    "cron_run_duration_seconds", (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 14400, 86400)
)
RUNS = "cron_runs_total"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Page:
    """What one transaction writes."""

    starts: Sequence[Start]
    closings: Sequence[Closing]
    counted: dict[tuple[str, str], float]

    def split(self) -> "list[_Page]":
        """A page for each run."""
        return [
            _Page(
                [start for start in self.starts if start.run.run_id == run_id],
                [closing for closing in self.closings if closing.end.run.run_id == run_id],
                {},
            )
            for run_id in sorted(self.run_ids)
        ]

    @property
    def run_ids(self) -> set[int]:
        return {start.run.run_id for start in self.starts} | {closing.end.run.run_id for closing in self.closings}


class Journal:
    """Writes starts and ends of runs. Lives on one event loop.

    `on_written` is told which runs need nothing more to be written: their ends are committed, or never will be,
    because their jobs were deleted or somebody else has ended them.
    """

    def __init__(
        self, settings: Settings, offload: Offload, node: str, *, on_written: Callable[[Sequence[PlannedRun]], None]
    ) -> None:
        self._settings = settings
        self._offload = offload
        self._node = node
        self._on_written = on_written
        self._counters = Counters()
        self._counted = False
        self._counters_written = 0.0
        self._starts: dict[int, tuple[float, Start]] = {}
        self._closings: dict[int, Closing] = {}
        self._is_writing = False
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._keep_writing(), name="journal")

    def started(self, start: Start) -> None:
        """A command was started."""
        run = start.run
        self._starts[run.run_id] = time.monotonic(), start
        if run.trigger == "schedule":
            self._counters.observe(LATENESS, max(0.0, start.started.at - run.start_at.timestamp()))
        self._wanted.set()

    def ended(self, closing: Closing) -> None:
        """A run is over."""
        self._closings[closing.end.run.run_id] = closing
        self._wanted.set()

    def count(self, ends: Sequence[End]) -> None:
        """Count ends that are written."""
        for end in ends:
            self._counters.add(RUNS, status=end.result.status, trigger=end.run.trigger)
            if end.result.duration_ms is not None:
                self._counters.observe(DURATION, end.result.duration_ms / 1000)
        self._counted = self._counted or bool(ends)
        self._wanted.set()

    async def close(self, within: float) -> None:
        """Write what there is, for which there are `within` seconds, and write no more."""
        if self._task is None:
            return
        self._counters_written = 0.0
        deadline = time.monotonic() + within
        while (self._is_writing or self._due() is not None) and time.monotonic() < deadline:
            self._wanted.set()
            await asyncio.sleep(POLL_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_writing(self) -> None:
        while True:
            self._wanted.clear()
            due = self._due()
            if due is None or due > 0:
                try:
                    async with asyncio.timeout(due):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
                continue
            self._is_writing = True
            await self._write(self._page())
            self._is_writing = False
            await asyncio.sleep(SPACING_SECONDS)

    def _due(self) -> float | None:
        """How many seconds may pass until something is to be written. None: there is nothing."""
        if self._closings:
            return 0.0
        moments = []
        if self._starts:
            first, _ = next(iter(self._starts.values()))
            moments.append(first + START_SECONDS)
        if self._counted:
            moments.append(self._counters_written + COUNT_SECONDS)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _page(self) -> _Page:
        now = time.monotonic()
        closings = [self._closings.pop(run_id) for run_id in list(islice(self._closings, LARGEST_BATCH))]
        starts = [
            self._starts.pop(run_id)[1] for closing in closings if (run_id := closing.end.run.run_id) in self._starts
        ]
        for run_id, (since, start) in list(islice(self._starts.items(), LARGEST_BATCH)):
            if now - since < START_SECONDS:
                break
            del self._starts[run_id]
            starts.append(start)
        counted = {}
        if self._counted and now - self._counters_written >= COUNT_SECONDS:
            self._counters_written, self._counted = now, False
            counted = self._counters.take()
        return _Page(starts, closings, counted)

    async def _write(self, page: _Page) -> None:
        """Write a page, however long that takes."""
        try:
            ends = await self._insist(partial(self._step, page=page), page)
        except Exception as error:  # one run that cannot be written must not keep the others from it
            self._counters.put_back(page.counted)
            self._counted = True
            if len(page.run_ids) > 1:
                for part in page.split():
                    await self._write(part)
                return
            logger.error("run %s went wrong", page.run_ids, exc_info=error)
            await self._write_barely(page)
        else:
            self.count(ends)
            self._on_written([closing.end.run for closing in page.closings])

    async def _write_barely(self, page: _Page) -> None:
        """Write at least that a run is over, and nothing else that may have been the trouble."""
        closings = [closing.barely() for closing in page.closings]
        try:
            ends = await self._insist(lambda session: record_ends(session, closings, will_retry), page)
        except Exception as error:  # it stays ours, so that nobody starts it again, until the next scheduler adopts it
            logger.error("run %s stays open", page.run_ids, exc_info=error)
        else:
            self.count(ends)
            self._on_written([closing.end.run for closing in closings])

    async def _insist(self, step: Callable[[Session], list[End]], page: _Page) -> list[End]:
        for attempt in count():
            try:
                return await self._offload.change(step)
            except AWAY as error:
                pause, runs = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)], len(page.run_ids)
                logger.warning("what came of %s runs is not written yet, again in %s s: %s", runs, pause, error)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _step(self, session: Session, page: _Page) -> list[End]:
        now = utc_now()
        if page.starts and page.closings:  # what follows the ends asks for jobs when the runs that start are locked
            runs = [start.run for start in page.starts] + [closing.end.run for closing in page.closings]
            lock_jobs(session, (run.job.id for run in runs))
        ends = record_ends(session, page.closings, will_retry)
        closed = {closing.end.run.run_id for closing in page.closings}
        fresh = {end.run.run_id for end in ends}
        begun = record_starts(session, [start for start in page.starts if start.run.run_id not in closed])
        begun += [start.run for start in page.starts if start.run.run_id in fresh]
        if begun:
            alerts.on_starts(session, self._settings, begun, now)
        if ends:
            follow_ups(session, ends, now)
            alerts.on_ends(session, self._settings, ends, now)
        if page.counted:
            add_to_stored(session, self._node, page.counted)
        return ends
