"""The change feed: how a service learns that another one committed something.

It says only "look again"; what changed is read from the rows. Losing a notification may cost the caller's
timeout, never a change. On SQLite it watches `PRAGMA data_version`, which moves when another connection commits
(https://www.sqlite.org/pragma.html#pragma_data_version); on PostgreSQL it listens to `NOTIFY`.
"""

import logging
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Protocol

from wsp.database import NOTIFY_CHANNEL, Database

if TYPE_CHECKING:
    import psycopg

SQLITE_POLL_SECONDS = 0.1  # each look is some 50 µs of processor time, all day long
RECONNECT_SECONDS = 0.5

logger = logging.getLogger(__name__)


class ChangeFeed(Protocol):
    """Blocks the calling thread until there may be something new. One feed belongs to one thread."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds. True: another connection committed since the last call."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


def open_feed(database: Database) -> ChangeFeed:
    """The feed that fits the store. Commits made after this returns are seen."""
    return _SqliteFeed(database) if database.is_sqlite else _PostgresFeed(database)


class _SqliteFeed:
    def __init__(self, database: Database) -> None:
        # Its own connection, outside the pool: the version is counted per connection.
        self._connection = sqlite3.connect(database.url.database or "", isolation_level=None, check_same_thread=False)
        self._version = self._read()

    def _read(self) -> int:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            version = self._read()
            if version != self._version:
                self._version = version
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(SQLITE_POLL_SECONDS, remaining))

    def close(self) -> None:
        self._connection.close()


class _PostgresFeed:
    def __init__(self, database: Database) -> None:
        self._conninfo = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        # The engine's own driver: a server on SQLite need not carry psycopg in every process.
        self._driver: Any = database.engine.dialect.dbapi
        self._connection: psycopg.Connection | None = self._connect()

    def _connect(self) -> "psycopg.Connection":
        connection: psycopg.Connection = self._driver.connect(self._conninfo, autocommit=True)
        connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
        return connection

    def wait(self, timeout: float) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connect()
                return True  # whatever was said while nobody listened is lost: look again
            return any(True for _ in self._connection.notifies(timeout=timeout, stop_after=1))
        except self._driver.OperationalError as error:
            logger.warning("change feed lost its connection, reconnecting: %s", error)
            self.close()
            time.sleep(min(RECONNECT_SECONDS, timeout))
            return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
