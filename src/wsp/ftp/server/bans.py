"""Which addresses are banned, as one FTP process knows it, and how it keeps knowing."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from sqlalchemy.orm import Session

from wsp import epochs
from wsp.changes import open_feed
from wsp.database import Database, utc_now
from wsp.ftp.guests import bans_in_force, is_exempt, subject_of

FEED_WAIT_SECONDS = 0.5
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Bans:
    """The bans in force. Asking costs next to nothing and never blocks; any thread may."""

    def __init__(self, exempt: Sequence[IPv4Network | IPv6Network]) -> None:
        self._exempt = exempt
        self._until: dict[str, datetime] = {}

    def refresh(self, session: Session, now: datetime) -> None:
        """Read them anew."""
        self._until = bans_in_force(session, now)

    def is_exempt(self, address: str) -> bool:
        """Whether an address is never banned, nor limited."""
        return is_exempt(address, self._exempt)

    def until(self, address: str, now: datetime) -> datetime | None:
        """When the ban of an address ends, if it is banned."""
        if not self._until:
            return None
        until = self._until.get(subject_of(address))
        return until if until is not None and until > now and not self.is_exempt(address) else None


class BanFollower:
    """Refreshes the bans whenever any process, or the API, has made or lifted one."""

    def __init__(self, database: Database, bans: Bans, on_change: Callable[[], None]) -> None:
        """`on_change` is called on the follower's own thread."""
        self._database = database
        self._bans = bans
        self._on_change = on_change
        self._epoch = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ftp-bans", daemon=True)

    def start(self) -> None:
        """Read the bans, then follow them. Raises SQLAlchemyError."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """Follow them no longer."""
        self._stop.set()

    def _look(self) -> None:
        with self._database.reading() as session:
            epoch = epochs.current(session)["bans"]
            if epoch == self._epoch:
                return
            self._bans.refresh(session, utc_now())
        self._epoch = epoch
        self._on_change()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                feed = open_feed(self._database)
                try:
                    self._look()  # nobody listened until now
                    while not self._stop.is_set():
                        if feed.wait(FEED_WAIT_SECONDS):
                            self._look()
                finally:
                    feed.close()
            except Exception as error:
                # What is known of bans stays in force until the store can be asked again.
                logger.warning("bans cannot be followed for now: %s", error)
                self._stop.wait(RETRY_SECONDS)
