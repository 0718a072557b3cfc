"""Sends what waits to be delivered, from the API process.

Threads are made when there is something to send, and end when there is not. A target that hangs holds few of them:
one webhook has CONCURRENT_PER_WEBHOOK at most, and those whose last attempt failed have half of all together.
"""

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from wsp import __version__
from wsp.database import Database, utc_now
from wsp.settings import Settings
from wsp.version import StoreVersion
from wsp.webhooks import exchange, queue
from wsp.webhooks.queue import Job, Outcome
from wsp.webhooks.signature import sign
from wsp.webhooks.targets import Undeliverable, parse_url

LOOK_SECONDS = 0.25  # at the version of the store: microseconds
TROUBLE_SECONDS = 1.0  # before it looks again
PRUNE_SECONDS = 3600.0
CAP_SECONDS = 60.0
STOP_SECONDS = 2.0  # that attempts may go on when the process stops; then their lease runs out

THREADS = 8
CONCURRENT_PER_WEBHOOK = 2
FAILING_THREADS = THREADS // 2

logger = logging.getLogger(__name__)


class Sender:
    """Follows the store on the event loop that starts it, and sends on threads."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        version: StoreVersion,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._database = database
        self._version = version
        self._clock = clock
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._running: Counter[str] = Counter()
        self._failing: set[str] = set()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Call it on the event loop."""
        self._task = asyncio.create_task(self._follow(), name="webhooks")

    async def close(self) -> None:
        """Take nothing more, and give what is under way a moment."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with self._lock:  # within it a thread is made known and started: one that was not cannot be joined
            self._stopping = True
            threads = tuple(self._threads)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    async def _follow(self) -> None:
        seen, look_at, prune_at, cap_at = -1, 0.0, time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            try:
                version = self._version.current()
                if version != seen or now >= look_at:
                    seen = version
                    look_at = now + await asyncio.to_thread(self._look)
                if now >= cap_at:
                    cap_at = now + CAP_SECONDS
                    await asyncio.to_thread(self._cap)
                if now >= prune_at:
                    prune_at = now + PRUNE_SECONDS
                    await asyncio.to_thread(self._prune)
            except Exception as error:  # the store may be away for a while
                look_at = now + TROUBLE_SECONDS
                _log_trouble("webhooks wait", error)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> float:
        """Have a thread send what is due. Returns the seconds until then, if nothing is committed meanwhile."""
        with self._lock:
            full = self._full()
        with self._database.reading() as session:
            due = queue.earliest(session, full)
        if due is None:
            return PRUNE_SECONDS
        wait = (due - self._clock()).total_seconds()
        if wait <= 0:
            self._spawn()
        return max(wait, LOOK_SECONDS)

    def _prune(self) -> None:
        before = self._clock() - timedelta(days=self._settings.webhook_keep_days)
        removed = queue.PRUNED_AT_ONCE
        while removed == queue.PRUNED_AT_ONCE:
            with self._database.transaction(announce=False) as session:
                removed = queue.prune(session, before)

    def _cap(self) -> None:
        with self._database.transaction(announce=False) as session:
            given_up = queue.cap(session, self._clock())
        if given_up:
            logger.warning("%d deliveries of webhooks were given up: too many waited", given_up)

    def _spawn(self) -> None:
        with self._lock:
            if self._stopping or len(self._threads) >= THREADS:
                return
            # A daemon: a target that hangs must not keep the process from ending.
            thread = threading.Thread(target=self._send_what_is_due, name="webhook", daemon=True)
            thread.start()
            self._threads.add(thread)  # not before: one that could not be started would keep its place for ever

    def _send_what_is_due(self) -> None:
        try:
            while (job := self._take()) is not None:
                self._spawn()  # there may be more
                try:
                    self._send(job)
                finally:
                    with self._lock:
                        self._running -= Counter((job.webhook_id,))
        except Exception as error:
            _log_trouble("a webhook was not sent or not noted, it is tried again", error)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _take(self) -> Job | None:
        # One at a time: how much a webhook has under way must not change in between.
        with self._lock:
            if self._stopping:
                return None
            with self._database.transaction(announce=False) as session:
                job = queue.claim(session, self._clock(), self._full())
            if job is not None:
                self._running[job.webhook_id] += 1
            return job

    def _full(self) -> set[str]:
        """The webhooks that have as much under way as they may."""
        full = {webhook for webhook, running in self._running.items() if running >= CONCURRENT_PER_WEBHOOK}
        if sum(self._running[webhook] for webhook in self._failing) >= FAILING_THREADS:
            full |= self._failing
        return full

    def _send(self, job: Job) -> None:
        outcome = Outcome(None, f"Not sent: {job.stopped}") if job.stopped else self._attempt(job)
        with self._lock:
            (self._failing.add if outcome.error else self._failing.discard)(job.webhook_id)
        with self._database.transaction(announce=False) as session:
            queue.record(session, job, outcome, self._clock(), jitter=random.random())  # noqa: S311 - not a secret
        logger.info("webhook %s: %s %s", job.webhook_id, job.event, outcome.error or "delivered")

    def _attempt(self, job: Job) -> Outcome:
        body, timestamp = job.payload.encode(), int(self._clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"wsp/{__version__}",
            "X-Wsp-Event": job.event,
            "X-Wsp-Delivery": str(job.delivery_id),
            "X-Wsp-Timestamp": str(timestamp),
            "X-Wsp-Signature": sign(job.secret, timestamp, body),
        }
        try:
            target = parse_url(job.url)
            allowed = self._settings.webhook_allow_private
            status, excerpt = exchange.post(target, body, headers, allow_private=allowed)
        except (Undeliverable, ValueError) as error:
            sentence = str(error)
            return Outcome(None, sentence[:1].upper() + sentence[1:])
        if 200 <= status < 300:
            return Outcome(status)
        if 300 <= status < 400:
            return Outcome(status, f"The answer was {status}; redirects are not followed")
        return Outcome(status, f"The answer was {status}" + (f": {excerpt}" if excerpt else ""))


def _log_trouble(what: str, error: Exception) -> None:
    if isinstance(error, SQLAlchemyError):
        logger.warning("%s: %s", what, error)
    else:
        logger.error("%s", what, exc_info=error)
