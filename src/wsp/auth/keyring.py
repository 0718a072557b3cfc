"""The keys in use, remembered between requests so that a request costs no look-up.

What is remembered is thrown away at every commit: our own at once, another process's as soon as the change feed
tells. A change of a key or a user is therefore true for the next request.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from wsp.auth import service
from wsp.auth.service import Principal
from wsp.changes import open_feed
from wsp.database import Database
from wsp.errors import Unauthorized

FEED_WAIT_SECONDS = 1.0
MAX_REMEMBERED = 10_000

logger = logging.getLogger(__name__)


class Keyring:
    """Turns secrets into principals. Safe to use from many threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._principals: dict[str, Principal] = {}
        self._last_used: dict[str, datetime] = {}
        self._generation = 0
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="keyring", daemon=True)
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="last-used")

    def start(self) -> None:
        """Follow the changes of other processes."""
        self._follower.start()

    def stop(self) -> None:
        """Stop following, and let what is noted be written."""
        self._stop.set()
        if self._follower.ident is not None:
            self._follower.join()
        self._notes.shutdown()

    def forget(self) -> None:
        """Something was committed: ask the store again."""
        self._generation += 1
        self._principals.clear()

    def remembered(self, secret: str, now: datetime) -> Principal | None:
        """The principal of a secret that was looked up since the last commit. Never blocks."""
        principal = self._principals.get(secret)
        if principal is None:
            return None
        if principal.key_expires_at is not None and principal.key_expires_at <= now:
            raise Unauthorized
        self._note_use(principal.key_id, now)
        return principal

    def look_up(self, secret: str, now: datetime) -> Principal:
        """The principal of a secret, from the store. Raises Unauthorized."""
        generation = self._generation
        with self._database.reading() as session:
            principal, last_used = service.authenticate(session, secret, now)
        if last_used is not None:
            self._last_used.setdefault(principal.key_id, last_used)
        # Not when something was committed while we read: what was read may be the old state.
        if generation == self._generation and len(self._principals) < MAX_REMEMBERED:
            self._principals[secret] = principal
        self._note_use(principal.key_id, now)
        return principal

    def _note_use(self, key_id: str, now: datetime) -> None:
        last = self._last_used.get(key_id)
        if last is None or now - last >= service.LAST_USED_RESOLUTION:
            self._last_used[key_id] = now
            self._notes.submit(self._write_use, key_id, now)

    def _write_use(self, key_id: str, now: datetime) -> None:
        try:
            with self._database.transaction(announce=False) as session:
                service.touch_key(session, key_id, now)
        except SQLAlchemyError as error:
            logger.warning("last use of key %s not noted: %s", key_id, error)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                feed = open_feed(self._database)
                self.forget()
                while not self._stop.is_set():
                    if feed.wait(FEED_WAIT_SECONDS):
                        self.forget()
                feed.close()
            except Exception:
                logger.exception("the change feed failed, opening it again")
                self.forget()
                self._stop.wait(FEED_WAIT_SECONDS)
