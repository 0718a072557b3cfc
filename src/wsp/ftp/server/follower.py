"""Brings what the API commits to the sessions that are logged in: within a second, on every process.

A thread follows the change feed. When an account, an owner or a session to end is among what changed, it reads what
the accounts of the sessions of this process are now, in one go, and hands that to the loop, which ends the sessions
that may not go on and tells the others their new limits. A store that is away ends nobody's session.
"""

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from sqlalchemy import select

from wsp import epochs
from wsp.changes import ChangeFeed, open_feed
from wsp.database import Database
from wsp.ftp.logins import Login, find_logins
from wsp.ftp.records import SessionRow
from wsp.ftp.server.loop import Loop

FEED_SECONDS = 0.25  # how long the thread waits at a time, and so how late it notices that it was asked to look
RETRY_SECONDS = 0.5
LOOP_SECONDS = 5.0  # how long the loop may take to answer

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Followed(Protocol):
    """The sessions of this process. Both are called on the loop."""

    def accounts_in_use(self) -> set[str]:
        """The accounts of the sessions and of the running transfers; who logs in from now on has to ask again."""

    def accounts_are(self, current: Mapping[str, Login | None], ending: Collection[str]) -> None:
        """What these accounts are now, and the ids of sessions that somebody wants to end."""


class Follower:
    """The thread. `look_again()` may be called from any other."""

    def __init__(self, database: Database, loop: Loop, service_id: str, sessions: Followed) -> None:
        self._database = database
        self._loop = loop
        self._service_id = service_id
        self._sessions = sessions
        self._feed: ChangeFeed | None = None
        self._seen: int | None = None
        self._again = threading.Event()
        self._stop = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Follow what is committed from now on."""
        self._thread.start()

    def look_again(self) -> None:
        """Look at the accounts soon, whatever the feed says."""
        self._again.set()

    def stop(self) -> None:
        """Follow no longer. Does not wait for the thread, which may wait for the store."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                if self._wait():
                    self._look()
            except Exception as error:
                # Nothing is lost: the next look finds whatever changed.
                if not self._failing:
                    logger.error("changes of accounts cannot be followed: %s", str(error).partition("\n")[0])
                self._failing = True
                self._again.set()
                self._close_feed()
                self._stop.wait(RETRY_SECONDS)
            else:
                if self._failing:
                    logger.info("changes of accounts are followed again")
                self._failing = False
        self._close_feed()

    def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _wait(self) -> bool:
        """Wait for something new. True: there may be."""
        if self._feed is None:
            self._feed = open_feed(self._database)
            return True  # what was committed before is not in the feed
        return self._feed.wait(FEED_SECONDS) or self._again.is_set()

    def _look(self) -> None:
        asked = self._again.is_set()
        self._again.clear()
        with self._database.reading() as session:
            epoch = epochs.current(session)["ftp"]
        if epoch == self._seen and not asked:
            return
        names = self._on_loop(self._sessions.accounts_in_use)
        with self._database.reading() as session:
            current = find_logins(session, names)
            ending = session.scalars(
                select(SessionRow.id).where(SessionRow.service_id == self._service_id, SessionRow.end_requested)
            ).all()
        self._loop.call(lambda: self._sessions.accounts_are(current, ending))
        self._seen = epoch

    def _on_loop(self, function: Callable[[], T]) -> T:
        """What a function gives on the loop. Raises TimeoutError."""
        answer: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._loop.call(lambda: answer.put(function()))
        try:
            return answer.get(timeout=LOOP_SECONDS)
        except queue.Empty:
            raise TimeoutError("the loop does not answer") from None
