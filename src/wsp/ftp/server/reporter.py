"""Tells the store what goes on in this process: its sessions, their transfers, and how they ended.

The loop gathers, a thread writes. Nothing waits for the store: while it is away, what there is to tell is kept in
memory, within bounds. A session that does nothing is not written again, however many there are.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from sqlalchemy.exc import InterfaceError, OperationalError

from wsp.database import Database, utc_now
from wsp.ftp.reports import EndedSession, EndedTransfer, Report, write
from wsp.ftp.retention import tidy
from wsp.ftp.server.loop import Loop
from wsp.ftp.server.xferlog import Xferlog

REPORT_SECONDS = 1.0
SOON_SECONDS = 0.1  # what somebody waits for: a session that was to end is over
ROWS_IN_REPORT = 500  # the sessions that changed beyond that are told of a second later
RETRY_SECONDS = 1.0
TIDY_SECONDS = 3600.0
FIRST_TIDY_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Reported(Protocol):
    """What is asked of a session."""

    id: str

    def row(self) -> dict[str, Any] | None:
        """The columns of its row; None when nobody is logged in (any more)."""

    @property
    def is_transferring(self) -> bool:
        """Whether its row will have changed a second from now."""


class Reporter:
    """Methods are for the loop's thread, but for `stop()`."""

    def __init__(
        self, database: Database, loop: Loop, service_id: str, *, keep_days: int, xferlog: Xferlog | None = None
    ) -> None:
        """`keep_days`: how long the records of transfers are kept; 0 = there are none."""
        self.service_id = service_id
        self._loop = loop
        self._writer = _Writer(database, keep_days, xferlog)
        self._report = Report()
        self._changed: dict[Reported, None] = {}
        self._known: set[str] = set()
        self._due: Any = None

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    def changed(self, session: Reported) -> None:
        """A session began, or did something."""
        self._changed[session] = None
        if self._due is None:
            self._collect_in(REPORT_SECONDS)

    def left(self, session: Reported, ended: EndedSession | None, *, soon: bool = False) -> None:
        """Nobody is logged in there any more. `soon`: somebody waits for it to be seen."""
        self._changed.pop(session, None)
        if session.id in self._known:
            self._known.discard(session.id)
            self._report.end_row(session.id)
        if ended is not None:
            self._report.sessions.append(ended)
        if soon:
            self._collect_in(SOON_SECONDS)
        elif self._due is None and self._report:
            self._collect_in(REPORT_SECONDS)

    def transferred(self, ended: EndedTransfer) -> None:
        """A transfer is over, or was refused."""
        self._report.transfers.append(ended)
        if self._due is None:
            self._collect_in(REPORT_SECONDS)

    def login_failed(self, username: str, owner: str, address: str, reason: str, *, tls: bool) -> None:
        """A login to an account was refused. `reason` is for its owner: a sentence, with the true reason."""
        now = utc_now()
        self._report.add_refusal(
            EndedSession(
                username=username,
                owner=owner,
                session_id="",
                address=address,
                client="",
                tls="TLS" if tls else "",
                started_at=now,
                ended_at=now,
                ok=False,
                sentence=f"The login was refused. {reason}",
                refusal=reason,
            )
        )
        if self._due is None:
            self._collect_in(REPORT_SECONDS)

    def stop(self, seconds: float) -> None:
        """Write what is left, for so many seconds at most. Call it when the loop has ended."""
        self._hand_over()
        self._writer.stop(seconds)

    def _collect_in(self, seconds: float) -> None:
        if self._due is not None:
            if self._due.timeout <= time.monotonic() + seconds:
                return
            self._due.cancel()
        self._due = self._loop.io.call_later(seconds, self._collect)

    def _collect(self) -> None:
        self._due = None
        for session in list(islice(self._changed, ROWS_IN_REPORT)):
            del self._changed[session]
            row = session.row()
            if row is None:
                continue
            self._report.put_row(session.id, row)
            self._known.add(session.id)
            if session.is_transferring:
                self._changed[session] = None
        self._hand_over()
        if self._changed:
            self._collect_in(REPORT_SECONDS)

    def _hand_over(self) -> None:
        if self._report:
            self._writer.submit(self._report)
            self._report = Report()


class _Writer:
    """The thread. It is a daemon: a store that does not answer must not hold up the end of the process."""

    def __init__(self, database: Database, keep_days: int, xferlog: Xferlog | None) -> None:
        self._database = database
        self._keep_days = keep_days
        self._xferlog = xferlog
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._waiting = Report()
        self._away = False
        # Not every process at the same time.
        self._tidy_at = time.monotonic() + FIRST_TIDY_SECONDS * (1 + random.random())  # noqa: S311 - spreads, protects nothing
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, report: Report) -> None:
        self._reports.put(report)

    def stop(self, seconds: float) -> None:
        self._reports.put(None)
        self._thread.join(seconds)
        if self._waiting:
            logger.error("%d transfers could not be recorded: the database is away", len(self._waiting.transfers))

    def _run(self) -> None:
        while True:
            wait = RETRY_SECONDS if self._waiting else max(0.0, self._tidy_at - time.monotonic())
            try:
                report = self._reports.get(timeout=wait)
            except queue.Empty:
                report = Report()
            if report is None:
                self._attempt()
                break
            if self._xferlog is not None and report.transfers:
                self._xferlog.write(report.transfers)
            self._waiting.add(report)
            self._attempt()
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + TIDY_SECONDS
                self._guarded(lambda: tidy(self._database, self._keep_days, now=utc_now()))
        if self._xferlog is not None:
            self._xferlog.close()

    def _attempt(self) -> None:
        if self._waiting and self._guarded(self._write):
            self._waiting = Report()

    def _write(self) -> None:
        with self._database.transaction(announce=False) as session:
            if write(session, self._waiting, keep_transfers=self._keep_days > 0):
                self._database.announce(session)
        if self._waiting.lost:
            logger.error("%d transfers were not recorded while the database was away", self._waiting.lost)

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Do it. False: the store is away, and it may be tried again."""
        try:
            work()
        except (OperationalError, InterfaceError) as error:
            if not self._away:
                logger.error("sessions and transfers cannot be recorded, and wait: %s", str(error).partition("\n")[0])
            self._away = True
            return False
        except Exception:
            # It would fail for ever, and everything behind it with it.
            logger.exception("a report could not be written, and is given up")
            return True
        if self._away:
            self._away = False
            logger.info("sessions and transfers are recorded again")
        return True
