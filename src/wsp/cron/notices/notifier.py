"""Watches for what is overdue or unusual and has mails sent, in whichever process has one."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from wsp.cron.notices import outbox, watch
from wsp.cron.notices.mailer import Mailer
from wsp.database import Database, utc_now
from wsp.settings import Settings

LOOK_SECONDS = 1.0  # one look at two indexes
RUNNING_SECONDS = 5.0  # at the runs that go on
PRUNE_SECONDS = 3600.0
TROUBLE_SECONDS = 5.0  # before it looks again at a store that is away
STOP_SECONDS = 1.0  # that a mail may still take

_DUE = select(watch.next_overdue().scalar_subquery(), outbox.next_due().scalar_subquery())

logger = logging.getLogger(__name__)


class Notifier:
    """A daemon thread, and those of the mailer while there are mails. Nothing of it delays anybody else."""

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._mailer = Mailer(settings, database, clock=clock)
        self._durations = watch.Durations()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and give mails that are under way STOP_SECONDS. Blocks."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
        self._mailer.close(STOP_SECONDS)

    def _run(self) -> None:
        look_at_running = prune_at = time.monotonic()
        while not self._stop.is_set():
            pause, now = LOOK_SECONDS, time.monotonic()
            try:
                self.look()
                if now >= look_at_running:
                    look_at_running = now + RUNNING_SECONDS
                    self.look_at_running()
                if now >= prune_at:
                    prune_at = now + PRUNE_SECONDS
                    self.prune()
            except SQLAlchemyError as error:
                pause = TROUBLE_SECONDS
                logger.warning("mails and alarms wait: %s", error)
            except Exception:  # alarms are what must not end
                pause = TROUBLE_SECONDS
                logger.exception("looking for alarms and mails went wrong")
            self._stop.wait(pause)

    def look(self) -> None:
        """Raise the alarm for what is overdue, and have sent what is due."""
        with self._database.reading() as session:
            overdue_at, mail_at = session.connection().execute(_DUE).one()
        now = self._clock()
        if mail_at is not None and mail_at <= now:
            self._send_due()
        if overdue_at is not None and overdue_at <= now:  # after the mails: they do not wait when this goes wrong
            self._raise_overdue(now)
            self._send_due()

    def look_at_running(self) -> None:
        """Tell of runs that go on for unusually long."""
        now = self._clock()
        with self._database.reading() as session:
            due = self._durations.due(session, watch.watched_runs(session), now)
        for run in due:
            with self._database.transaction() as session:
                watch.raise_unusual(session, self._settings, run, now)
            self._durations.done(run)

    def prune(self) -> None:
        """Remove the records of mails that ended long ago."""
        removed = outbox.PRUNED_AT_ONCE
        while removed == outbox.PRUNED_AT_ONCE and not self._stop.is_set():
            with self._database.transaction(announce=False) as session:
                removed = outbox.prune(session, self._clock())

    def _send_due(self) -> None:
        if self._settings.smtp_host:
            self._mailer.send_due()

    def _raise_overdue(self, now: datetime) -> None:
        raised = watch.JOBS_AT_ONCE
        while raised == watch.JOBS_AT_ONCE and not self._stop.is_set():
            with self._database.transaction() as session:
                raised = watch.raise_overdue(session, self._settings, now)
