"""Writes down who failed to log in, on a thread of its own: no login waits for it, and a storm costs few commits."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database, utc_now
from wsp.ftp.guests import Attempt, BanRules, forget, note_attempts, takes_back
from wsp.ftp.server.bans import Bans

GATHER_SECONDS = 0.05  # much less than a refused client waits for its answer
GATHERED = 100
WAITING = 10_000
FORGET_EVERY = timedelta(minutes=10)

logger = logging.getLogger(__name__)


class Scorer:
    """Takes attempts from any thread, and bans whom they are too many of."""

    def __init__(self, database: Database, bans: Bans, rules: BanRules, on_ban: Callable[[], None]) -> None:
        """`on_ban` is called on the scorer's own thread, when `bans` knows of the new ones."""
        self._database = database
        self._bans = bans
        self._rules = rules
        self._on_ban = on_ban
        self._waiting: queue.Queue[Attempt] = queue.Queue(maxsize=WAITING)
        self._forgot_at = utc_now()

    def start(self) -> None:
        """Begin to write. The thread is a daemon: a store that does not answer does not hold up the end."""
        threading.Thread(target=self._work, name="ftp-scores", daemon=True).start()

    def note(self, address: str, account: str, *, succeeded: bool) -> None:
        """An attempt on an account (empty: there is none of that name) was decided. Never blocks."""
        if not self._rules.failures or self._bans.is_exempt(address):
            return
        try:
            self._waiting.put_nowait(Attempt(address, account, succeeded))
        except queue.Full:
            logger.warning("more logins than can be scored: one from %s is not", address)

    def _work(self) -> None:
        while True:
            attempts = [self._waiting.get()]
            time.sleep(GATHER_SECONDS)
            while len(attempts) < GATHERED and not self._waiting.empty():
                attempts.append(self._waiting.get())
            try:
                self._write(attempts)
            except SQLAlchemyError as error:
                logger.warning("%d logins were not scored: %s", len(attempts), error)
            except Exception:
                logger.exception("%d logins were not scored", len(attempts))

    def _write(self, attempts: list[Attempt]) -> None:
        now = utc_now()
        if all(attempt.succeeded for attempt in attempts):
            with self._database.reading() as session:
                if not takes_back(session, attempts):
                    return
        with self._database.transaction(announce=False) as session:
            if now - self._forgot_at > FORGET_EVERY:
                forget(session, now)
                self._forgot_at = now
            banned = note_attempts(session, attempts, self._rules, now)
            if banned:
                self._database.announce(session)
        if banned:
            logger.warning("banned after too many failed logins: %s", ", ".join(banned))
            with self._database.reading() as session:
                self._bans.refresh(session, now)
            self._on_ban()
