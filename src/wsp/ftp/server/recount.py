"""Counting homes again, so that their figures are true whatever went on beside the FTP server.

Web applications and cron jobs write into the same homes, and processes get killed. So there is a thread that counts:
homes that nobody has counted yet, those that a dead process may have left wrong, those in use every minute, all
others now and then. It rests after every few hundred files, and between counts in proportion to what they cost.
"""

import fcntl
import heapq
import logging
import math
import os
import queue
import re
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.ftp.counting import Figure, count
from wsp.ftp.server.ledger import Ledger, Record
from wsp.ftp.server.shared import FILE_MODE, TableFull
from wsp.ftp.usage import homes_counted_before
from wsp.homes import home_path

TURN_SECONDS = 1.0
WAIT_SECONDS = 0.5  # for a session to come
IN_USE_SECONDS = 60.0  # a home in use is counted this often, or
COST_FACTOR = 100  # so many times what its last count took, whichever is longer
DISTURBED_SECONDS = 5.0  # after a count during which something changed
DISTURBED_COST_FACTOR = 20
IDLE_SECONDS = 900.0  # other homes, one after the other
IDLE_COST_FACTOR = 50
IDLE_BATCH = 32
IDLE_LOOK_SECONDS = 10.0
URGENT_REST = 0.5  # of the time spent: while somebody waits for the figure
REST = 9.0  # of the time spent, otherwise: a tenth of a processor

_TEMPORARY = re.compile(r"\.wsp-upload-[0-9a-f]+\.([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{8}\.tmp")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

logger = logging.getLogger(__name__)


class _Stopped(Exception):
    """The process ends."""


class Recounter:
    """The thread that counts. `start()`, then `stop()` and `join()`."""

    def __init__(self, ledger: Ledger, database: Database, folder: Path, files_root: Path) -> None:
        """Raises OSError."""
        self._ledger = ledger
        self._database = database
        self._files_root = files_root
        # One process of the machine counts the homes that nobody uses.
        self._idle_lock = os.open(folder / "idle.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        self._in_use: list[tuple[float, str, Record]] = []  # a heap, by when they are due
        self._planned: dict[str, float] = {}  # the one entry of each home that holds
        self._urgent: deque[str] = deque()
        self._again: deque[tuple[float, str]] = deque()  # urgent ones whose count was disturbed, and when to try again
        self._idle: deque[str] = deque()
        self._idle_after = 0.0
        self._cleaned_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ftp-recount", daemon=True)

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def stop(self) -> None:
        """End soon, in the middle of a count as well."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end. False: it has not come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self.turn(time.time()):
                    self._wait()
            except _Stopped:
                return
            except Exception:
                logger.exception("the count of homes failed")
                self._stop.wait(TURN_SECONDS)

    def _wait(self) -> None:
        with suppress(queue.Empty):
            self._schedule(self._ledger.arrivals.get(timeout=WAIT_SECONDS), 0.0)

    def turn(self, now: float) -> bool:
        """Count the home that is the most urgent. False: none is due. `now` in seconds since 1970."""
        self._collect(now)
        # Somebody may be waiting for a home that was never counted; what a dead process left comes next.
        while self._in_use and self._in_use[0][0] <= (0.0 if self._urgent else now):
            planned, home, record = heapq.heappop(self._in_use)
            if self._planned.get(home) != planned:
                continue
            del self._planned[home]
            if not self._ledger.is_in_use(record):
                continue
            due = self._due(record, now)
            if due > now:
                self._schedule(record, due)
                continue
            self._count(record, rest=REST if self._ledger.is_known(record) else URGENT_REST)
            self._schedule(record, max(self._due(record, now), now + TURN_SECONDS))
            return True
        if self._urgent:
            home = self._urgent.popleft()
            outcome = self._count_named(home, rest=URGENT_REST)
            if not outcome.is_exact:
                wait = max(DISTURBED_SECONDS, DISTURBED_COST_FACTOR * outcome.cost)
                self._again.append((time.time() + wait, home))
            return True
        return self._count_idle(now)

    def _collect(self, now: float) -> None:
        """Take in what has become due since the last turn."""
        with suppress(queue.Empty):
            while True:
                record = self._ledger.arrivals.get_nowait()
                self._schedule(record, 0.0)
        if now - self._cleaned_at >= TURN_SECONDS:
            self._cleaned_at = now
            self._urgent.extend(self._ledger.clean_up())
        while self._again and self._again[0][0] <= now:
            self._urgent.append(self._again.popleft()[1])
        while self._ledger.to_count:
            path = self._ledger.to_count.popleft()
            self._urgent.extend(home for home in self._ledger.homes() if home == path or home.startswith(f"{path}/"))

    def _schedule(self, record: Record, due: float) -> None:
        if due < self._planned.get(record.home, math.inf):
            self._planned[record.home] = due
            heapq.heappush(self._in_use, (due, record.home, record))

    def _due(self, record: Record, now: float) -> float:
        """When a home in use is to be counted again."""
        state = self._ledger.count_state(record)
        if state.counted_at > now:
            return 0.0  # the clock was set back
        if state.is_exact:
            return state.counted_at + max(IN_USE_SECONDS, COST_FACTOR * state.cost)
        if state.counted_at:
            return state.counted_at + max(DISTURBED_SECONDS, DISTURBED_COST_FACTOR * state.cost)
        return 0.0

    def _count_idle(self, now: float) -> bool:
        """The next of the homes that nobody uses."""
        if now < self._idle_after:
            return False
        if not self._idle:
            self._idle_after = now + IDLE_LOOK_SECONDS
            with suppress(BlockingIOError):
                fcntl.flock(self._idle_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Of what was before the table was begun (another boot, another version), nothing is sure.
                before = max(now - IDLE_SECONDS, self._ledger.made_at)
                try:
                    with self._database.reading() as session:
                        self._idle.extend(
                            homes_counted_before(session, datetime.fromtimestamp(before, UTC), limit=IDLE_BATCH)
                        )
                except SQLAlchemyError as error:
                    logger.warning("homes to be counted were not read: %s", type(error).__name__)
        if not self._idle:
            return False
        outcome = self._count_named(self._idle.popleft(), rest=REST)
        self._idle_after = time.time() + IDLE_COST_FACTOR * outcome.cost
        return True

    def _count_named(self, home: str, *, rest: float) -> "_Outcome":
        try:
            return self._count(self._ledger.track(home), rest=rest)
        except TableFull:
            logger.warning("the table of homes is full, %s is not counted", home)
            return _Outcome(0.0, is_exact=True)

    def _count(self, record: Record, *, rest: float) -> "_Outcome":
        """Count one home, unless another process does so at the moment."""
        began = self._ledger.begin_count(record)
        if began is None:
            return _Outcome(0.0, is_exact=False)
        walk = _Walk(self._ledger, self._stop, rest)
        counted: Figure | None = None
        try:
            counted = walk.count(home_path(self._files_root, record.home))
        except FileNotFoundError:
            counted = Figure(0, 0)  # it is made by the next login
        except OSError as error:
            logger.warning("%s cannot be counted: %s", record.home, error.strerror)
        finally:
            now, cost = time.time(), walk.cost()
            is_exact = self._ledger.end_count(record, began, counted, now=now, cost=cost)
        logger.debug("counted %s in %.3f s: %s%s", record.home, cost, counted, "" if is_exact else ", disturbed")
        return _Outcome(cost, is_exact)


class _Outcome(NamedTuple):
    """What a count cost, in seconds without the rests, and whether its figure is exact."""

    cost: float
    is_exact: bool


class _Walk:
    """One count: it rests, and it knows the hidden files of uploads on their way."""

    def __init__(self, ledger: Ledger, stop: threading.Event, rest: float) -> None:
        self._ledger = ledger
        self._stop = stop
        self._rest = rest
        self._live = ledger.books.live_tokens()
        self._rested = 0.0
        self._began = self._worked_from = time.monotonic()

    def count(self, path: Path) -> Figure:
        """What is below a folder. Raises OSError."""
        folder = os.open(path, _FOLDER)
        try:
            return count(folder, counts=self._counts, rest=self._pause)
        finally:
            os.close(folder)

    def cost(self) -> float:
        """Seconds spent, without the rests."""
        return time.monotonic() - self._began - self._rested

    def _pause(self) -> None:
        now = time.monotonic()
        if self._stop.wait((now - self._worked_from) * self._rest):
            raise _Stopped
        self._worked_from = time.monotonic()
        self._rested += self._worked_from - now

    def _counts(self, folder: int, name: str) -> bool:
        """Whether a hidden file counts. What an upload on its way has is in the ledger; a dead one's is removed."""
        match = _TEMPORARY.fullmatch(name)
        if match is None or match[1] != self._ledger.origin:
            return True
        if match[2] not in self._live:
            self._live = self._ledger.books.live_tokens()
        if match[2] in self._live:
            return False
        try:
            os.unlink(name, dir_fd=folder)
        except OSError as error:
            logger.warning("what a dead process left cannot be removed: %s", error.strerror)
            return True
        return False
