"""Which services are alive: a row per process, kept fresh while its work loop turns."""

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, cast

from sqlalchemy import String, Table, bindparam, delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from wsp.database import Base, Database, utc_now

HEARTBEAT_SECONDS = 2.0
STALE_SECONDS = 4.5  # a service that has not been heard for so long is dead; the contract allows 5
FORGET_SECONDS = 3600.0  # rows of processes that died without a word are removed after this

Kind = Literal["api", "ftp", "cron"]
DRAINING = "draining"  # the kind of a process that takes nobody in any more, and ends when those who are in are done

logger = logging.getLogger(__name__)


class ServiceRow(Base):
    """A process of a service, as it last reported itself."""

    __tablename__ = "services"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    node: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(8), index=True)
    pid: Mapped[int]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime] = mapped_column(index=True)


_ROWS = cast(Table, ServiceRow.__table__)
_BEAT = (
    update(_ROWS)
    .where(_ROWS.c.id == bindparam("service"))
    .values(heartbeat_at=bindparam("at"), kind=bindparam("as"))
    .returning(_ROWS.c.id)
)


def alive(session: Session, kind: Kind, *, now: datetime | None = None) -> bool:
    """Is at least one process of this kind running, as far as the last seconds tell?"""
    since = (now or utc_now()) - timedelta(seconds=STALE_SECONDS)
    query = select(ServiceRow.id).where(ServiceRow.kind == kind, ServiceRow.heartbeat_at > since).limit(1)
    return session.scalar(query) is not None


def node_name() -> str:
    """The name of this machine, as the `services` table knows it."""
    return platform.node() or "localhost"


class Heartbeat:
    """Reports this process every HEARTBEAT_SECONDS from a thread of its own, as long as `is_healthy` says so.

    `on_orphaned` is called once when the process that started this one is gone: a service whose supervisor
    was killed must not stay behind as an orphan. Without it, nothing is watched (a service run alone).
    """

    def __init__(
        self,
        database: Database,
        kind: Kind,
        service_id: str,
        *,
        is_healthy: Callable[[], bool] = lambda: True,
        on_orphaned: Callable[[], None] | None = None,
    ) -> None:
        self.id = service_id
        self._database = database
        self._kind: str = kind
        self._is_healthy = is_healthy
        self._on_orphaned = on_orphaned
        self._parent = os.getppid()
        self._started_at = utc_now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the row, then keep it fresh. Raises SQLAlchemyError when even the first report fails."""
        self._started_at = now = utc_now()
        with self._database.transaction() as session:
            session.execute(delete(ServiceRow).where(ServiceRow.heartbeat_at < now - timedelta(seconds=FORGET_SECONDS)))
            session.add(self._row(now))
        self._thread.start()

    def drain(self) -> None:
        """Report a process that lives, but is no service any more: what it still does is to be seen."""
        self._kind = DRAINING
        self._beat()

    def stop(self) -> None:
        """Stop reporting and remove the row, so that nobody has to wait for it to go stale."""
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT_SECONDS * 2)
        try:
            with self._database.transaction() as session:
                session.execute(delete(ServiceRow).where(ServiceRow.id == self.id))
        except SQLAlchemyError as error:
            logger.warning("could not sign off, others will notice in %s s: %s", STALE_SECONDS, error)

    def _run(self) -> None:
        while not self._stop.wait(_until_next_beat()):
            if self._on_orphaned is not None and os.getppid() != self._parent:
                logger.error("the supervisor is gone, stopping")
                self._on_orphaned()
                self._on_orphaned = None
            if self._is_healthy():
                self._beat()

    def _beat(self) -> None:
        now = utc_now()
        values = {"service": self.id, "at": now, "as": self._kind}
        try:
            with self._database.transaction(announce=False) as session:
                # After a long sleep of this machine, another service may have taken us for dead and removed the row.
                if session.connection().execute(_BEAT, values).first() is None and not self._stop.is_set():
                    session.add(self._row(now))
        except SQLAlchemyError as error:
            logger.warning("heartbeat not written: %s", error)

    def _row(self, now: datetime) -> ServiceRow:
        return ServiceRow(
            id=self.id,
            node=node_name(),
            kind=self._kind,
            pid=os.getpid(),
            started_at=self._started_at,
            heartbeat_at=now,
        )


def _until_next_beat() -> float:
    """Seconds until the next beat. Every process beats at the same moments of the clock.

    On SQLite each commit wakes whoever follows the change feed; beats that come together wake them once.
    """
    left = HEARTBEAT_SECONDS - time.time() % HEARTBEAT_SECONDS
    return left if left > HEARTBEAT_SECONDS / 10 else left + HEARTBEAT_SECONDS
