"""When a job is due, from what its row says."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement

from wsp.cron.planning.rows import JOBS, JobRow
from wsp.cron.schedule.expression import ExpressionError, Schedule, parse
from wsp.cron.schedule.zones import zone_of

TIMETABLE_COLUMNS: Sequence[ColumnElement[Any]] = (
    JOBS.c.cron_expr,
    JOBS.c.timezone,
    JOBS.c.next_run_at,
    JOBS.c.due_from,
    JOBS.c.revision,
)

logger = logging.getLogger(__name__)


class Unreadable(Exception):
    """A job's expression or time zone is none. The message is a sentence."""


@dataclass(frozen=True)
class Timetable:
    """A reader of rows that have TIMETABLE_COLUMNS and the job's id as `job_id`."""

    default: ZoneInfo  # of jobs that name no zone
    _known: dict[tuple[Schedule, str, datetime], datetime | None] = field(default_factory=dict)

    def first_after(self, row: JobRow, instant: datetime) -> datetime | None:
        """The first tick later than `instant`; None when the job has no ticks of its own. Raises Unreadable."""
        schedule, zone = self._read(row)
        if schedule is None:
            return None
        # Many jobs are due at the same times.
        key = schedule, zone.key, instant
        if key not in self._known:
            self._known[key] = schedule.next_after(instant, zone)
        return self._known[key]

    def newest_between(self, row: JobRow, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The newest `limit` ticks later than `after` and not later than `until`, oldest first. Raises Unreadable."""
        schedule, zone = self._read(row)
        return schedule.due_between(after, until, zone, limit) if schedule else []

    def _read(self, row: JobRow) -> tuple[Schedule | None, ZoneInfo]:
        try:
            schedule = parse(row.cron_expr, row.job_id) if row.cron_expr else None
            return schedule, zone_of(row.timezone, self.default)
        except (ExpressionError, ValueError) as error:
            # The API lets none in. One that came in another way must not keep the other jobs from running.
            logger.error("job %s is not scheduled: %s", row.job_id, error)
            raise Unreadable(str(error)) from None


def spread(job_id: int, tick: datetime, seconds: int) -> float:
    """Seconds in [0, seconds) by which a tick is put off: the same whenever it is asked for."""
    digest = blake2b(f"{job_id} {tick.timestamp():.0f}".encode(), digest_size=6).digest()
    return seconds * int.from_bytes(digest, "big") / 2**48
