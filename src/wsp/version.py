"""The version of the store: a number that tells whether anything was committed since it was last looked at.

What was read is still true while the version has not moved, so it may be used again. On SQLite the number comes from
the database itself (`PRAGMA data_version`, some microseconds) and is exact; on PostgreSQL it counts what the change
feed said, and is behind by the time that a notification takes.
"""

import logging
import sqlite3
import threading
import time
from typing import Protocol

from wsp.changes import open_feed
from wsp.database import Database

FEED_WAIT_SECONDS = 1.0
TRUST_SECONDS = 2.0

logger = logging.getLogger(__name__)


class StoreVersion(Protocol):
    """Looked at from one thread, the event loop's. Never blocks."""

    exact: bool
    """Whether nothing at all can have been committed while the number stayed the same."""

    def start(self) -> None:
        """Begin to follow the store."""
        ...

    def current(self) -> int:
        """The number as it is now. Take it before reading: what is read then is at least as new."""
        ...

    def note_commit(self) -> None:
        """Something was committed that this process knows of, by itself for example."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


def store_version(database: Database) -> StoreVersion:
    """The version that fits the store."""
    return _SqliteVersion(database) if database.is_sqlite else _FollowedVersion(database)


class _SqliteVersion:
    exact = True

    def __init__(self, database: Database) -> None:
        self._path = database.url.database or ""
        self._connection: sqlite3.Connection | None = None

    def start(self) -> None:
        # Its own connection, outside the pool: commits through any other connection move its number.
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def current(self) -> int:
        if self._connection is None:
            self.start()
        assert self._connection is not None  # noqa: S101 - `start` has just set it
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def note_commit(self) -> None:
        """The database knows."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _FollowedVersion:
    exact = False

    def __init__(self, database: Database) -> None:
        self._database = database
        self._number = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="version", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def current(self) -> int:
        # A connection can fall silent without anybody being told. So nothing is believed for longer than this.
        return (int(time.monotonic() / TRUST_SECONDS) << 40) + self._number

    def note_commit(self) -> None:
        with self._lock:  # the feed counts as well, on its thread
            self._number += 1

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                feed = open_feed(self._database)
                self.note_commit()  # nobody listened until now
                while not self._stop.is_set():
                    if feed.wait(FEED_WAIT_SECONDS):
                        self.note_commit()
                feed.close()
            except Exception:
                logger.exception("the change feed failed, opening it again")
                self.note_commit()
                self._stop.wait(FEED_WAIT_SECONDS)
