"""Times in which jobs are not started: what owners have paused, and maintenance."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.cron.models import Maintenance, Pause
from wsp.cron.schedule.expression import ExpressionError, parse
from wsp.cron.schedule.zones import zone_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pauses:
    """All of them, as they are at the time of a decision."""

    _zone: ZoneInfo
    _owners: dict[str, Pause]
    _windows: dict[str | None, list[Maintenance]]  # by owner; None: those for everybody
    _known: dict[tuple[int, datetime], bool] = field(default_factory=dict)  # many jobs are due at one instant

    @classmethod
    def load(cls, session: Session, zone: ZoneInfo) -> "Pauses":
        """Read them. `zone` is the server's, for windows that name none."""
        owners = {pause.owner: pause for pause in session.scalars(select(Pause))}
        windows: dict[str | None, list[Maintenance]] = {}
        for window in session.scalars(select(Maintenance).order_by(Maintenance.id)):
            windows.setdefault(window.owner, []).append(window)
        return cls(zone, owners, windows)

    def __bool__(self) -> bool:
        return bool(self._owners or self._windows)

    def reason_for(self, owner: str, tags: str, instant: datetime) -> str | None:
        """Why a job with these `tags` (",a,b,") is not started at `instant`, as a sentence. None: it is."""
        pause = self._owners.get(owner)
        if pause is not None and pause.paused_at <= instant and (pause.until is None or instant < pause.until):
            return _sentence(f"The jobs of {owner} are paused", pause.reason)
        for window in (*self._windows.get(None, ()), *self._windows.get(owner, ())):
            if (not window.tag or f",{window.tag}," in tags) and self._holds(window, instant):
                return _sentence("Maintenance", window.reason)
        return None

    def _holds(self, window: Maintenance, instant: datetime) -> bool:
        key = window.id, instant
        if key not in self._known:
            self._known[key] = self._recurs(window, instant) if window.cron_expr else _covers(window, instant)
        return self._known[key]

    def _recurs(self, window: Maintenance, instant: datetime) -> bool:
        """Has one of its beginnings come, and not yet its end?"""
        try:
            schedule, zone = parse(window.cron_expr, window.id), zone_of(window.timezone, self._zone)
        except (ExpressionError, ValueError) as error:
            # The API lets none in. One that came in another way must not keep jobs from running.
            logger.error("maintenance %s is passed over: %s", window.id, error)
            return False
        begun = schedule.next_after(instant - timedelta(seconds=window.duration_seconds), zone)
        return begun is not None and begun <= instant and _covers(window, instant)


def _covers(window: Maintenance, instant: datetime) -> bool:
    begun = window.starts_at is None or window.starts_at <= instant
    return begun and (window.ends_at is None or instant < window.ends_at)


def _sentence(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what
