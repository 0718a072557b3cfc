"""The keys in use, remembered between requests so that a request costs no look-up.

What is remembered is good for one version of the store: at the next commit, whoever made it, it is thrown away.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from wsp.auth import service
from wsp.auth.service import Principal
from wsp.database import Database
from wsp.errors import Unauthorized
from wsp.version import StoreVersion

MAX_REMEMBERED = 10_000

logger = logging.getLogger(__name__)


class Keyring:
    """Turns secrets into principals."""

    def __init__(self, database: Database, version: StoreVersion) -> None:
        self._database = database
        self._version = version
        self._as_of = -1
        self._principals: dict[str, Principal] = {}
        self._last_used: dict[str, datetime] = {}
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="last-used")

    def close(self) -> None:
        """Let what is noted be written."""
        self._notes.shutdown()

    def remembered(self, secret: str, now: datetime) -> tuple[Principal | None, dict[str, Principal]]:
        """The principal of a secret that was looked up since the last commit, and where to note it otherwise.

        Never blocks; call it on the event loop. Raises Unauthorized for a key that has expired meanwhile.
        """
        version = self._version.current()
        if version != self._as_of:
            self._as_of = version
            self._principals = {}  # a new one: who still reads the old state notes it in the old one
        principal = self._principals.get(secret)
        if principal is not None:
            if principal.key_expires_at is not None and principal.key_expires_at <= now:
                raise Unauthorized
            self._note_use(principal.key_id, now)
        return principal, self._principals

    def look_up(self, secret: str, now: datetime, notes: dict[str, Principal]) -> Principal:
        """The principal of a secret, from the store. Blocks. `notes` is what `remembered` gave.

        Raises Unauthorized.
        """
        with self._database.reading() as session:
            principal, last_used = service.authenticate(session, secret, now)
        if last_used is not None:
            self._last_used.setdefault(principal.key_id, last_used)
        if len(notes) < MAX_REMEMBERED:
            notes[secret] = principal
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
