"""Writes the figures of homes to the store, for the API: those that changed, together, at most once a second."""

import fcntl
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.shared import FILE_MODE
from wsp.ftp.usage import store_usage

WRITE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class UsageReporter:
    """The thread that writes. `start()`, then `stop()` and `join()`."""

    def __init__(self, ledger: Ledger, database: Database, folder: Path) -> None:
        """Raises OSError."""
        self._ledger = ledger
        self._database = database
        # Whoever reads a figure writes it before another process does the same: no older one comes last.
        self._lock = os.open(folder / "report.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ftp-usage", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end. False: it has not come, the store does not answer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(WRITE_SECONDS):
            self.write()
        self.write()

    def write(self) -> bool:
        """Write the figures of all homes that changed. False: the store did not take them, and gets them again."""
        changed = [record for record in self._ledger.take_changed() if self._ledger.is_known(record)]
        if not changed:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            with self._database.transaction(announce=False) as session:
                store_usage(
                    session,
                    [
                        (
                            record.home,
                            self._ledger.figure(record),
                            datetime.fromtimestamp(self._ledger.count_state(record).counted_at, UTC),
                        )
                        for record in changed
                    ],
                )
        except SQLAlchemyError as error:
            logger.warning("the usage of %d homes was not written: %s", len(changed), type(error).__name__)
            self._ledger.give_back(changed)
            return False
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._ledger.written(changed)
        return True
