"""When a cron expression is due: pure time arithmetic, with no clock and no database.

croniter finds matching wall-clock times; this module maps them to instants by the rules of Debian's cron(8):
a job whose minute or hour starts with `*` follows real time, any other job runs once for each wall-clock time,
right after the gap when the clock jumps over it and the first time only when the clock shows it twice.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from croniter import croniter

from wsp.cron.fields import FIELDS, ExpressionError, shown

__all__ = ["MAX_CHARACTERS", "ExpressionError", "Schedule", "parse"]

MAX_CHARACTERS = 200

REBOOT = "@reboot"

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_LONGEST_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_YEARS_TO_LOOK_AHEAD = 50  # 29 February on a given weekday can be 40 years away, around 2100

# Clocks that are set back further than this are being corrected, not changed for the season: cron(8).
LONGEST_STEP_BACK = timedelta(hours=3)

_FIRST_SPAN = timedelta(hours=2)


@dataclass(frozen=True)
class Schedule:
    """A parsed expression."""

    canonical: str  # numbers and lists only
    days_either: bool  # one of the two day fields is enough
    follows_clock: bool  # a wildcard minute or hour: real time, not wall-clock time
    at_reboot: bool = False  # `@reboot`: due when the cron service starts, and at no time of the clock

    def next_after(self, instant: datetime, zone: ZoneInfo) -> datetime | None:
        """The first tick later than `instant` (aware) on the clocks of `zone`, in UTC and whole seconds.

        None for `@reboot`, and for nothing else.
        """
        return next(self._ticks(instant, zone), None)

    def due_between(self, after: datetime, until: datetime, zone: ZoneInfo, limit: int) -> list[datetime]:
        """The newest `limit` ticks later than `after` and not later than `until`, oldest first."""
        span = _FIRST_SPAN
        while True:
            start = max(after, until - span) if span < until - after else after
            ticks = []
            for tick in self._ticks(start, zone):
                if tick > until:
                    break
                ticks.append(tick)
            if len(ticks) >= limit or start == after:
                return ticks[-limit:]
            span *= 4

    def _ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Every tick later than `instant`, in order."""
        if self.at_reboot:
            return iter(())
        instant = instant.astimezone(UTC)
        return self._real_time_ticks(instant, zone) if self.follows_clock else self._fixed_ticks(instant, zone)

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        """The matching wall-clock times later than `wall`, in order."""
        finder = croniter(
            self.canonical,
            wall,
            ret_type=datetime,
            day_or=self.days_either,
            max_years_between_matches=_YEARS_TO_LOOK_AHEAD,
        )
        while True:
            yield finder.get_next()

    def _fixed_ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        newest = instant
        for wall in self._walls(instant.astimezone(zone).replace(tzinfo=None)):
            tick = _first_occurrence(wall, zone)
            if tick > newest:  # else: the clock shows this time again, or several times fell into one gap
                newest = tick
                yield tick

    def _real_time_ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        local = instant.astimezone(zone)
        later = (instant + LONGEST_STEP_BACK).astimezone(zone)
        # Clocks about to be set back will show times again that lie before the present one.
        step_back = max(timedelta(0), _offset(local) - _offset(later))
        repeated: deque[datetime] = deque()
        for wall in self._walls(local.replace(tzinfo=None) - step_back):
            first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
            if first > second:
                continue  # in a gap: the clock never shows this time
            while repeated and repeated[0] < first:
                yield repeated.popleft()
            if first > instant:
                yield first
            if second > max(first, instant):
                repeated.append(second)


def parse(text: str, key: int | None = None) -> Schedule:
    """Read a five-field expression or a macro such as `@daily`. Raises ExpressionError with one sentence.

    `key` is the id of the job, from which the values of `H` are taken.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"Cron expression is too long, at most {MAX_CHARACTERS} characters are allowed")
    trimmed = text.strip(" \t\r\n")
    if trimmed.lower() == REBOOT:
        return Schedule(canonical=REBOOT, days_either=False, follows_clock=False, at_reboot=True)
    if trimmed.startswith("@"):
        if trimmed.lower() not in MACROS:
            macros = ", ".join(MACROS)
            raise ExpressionError(f"Cron expression: {shown(trimmed)} is not supported, use one of {macros}")
        trimmed = MACROS[trimmed.lower()]
    parts = re.split(r"[ \t]+", trimmed) if trimmed else []
    if len(parts) != len(FIELDS):
        names = ", ".join(field.name for field in FIELDS)
        raise ExpressionError(f"Cron expression has {len(parts)} fields, exactly 5 are allowed: {names}")
    values = [field.parse(part) for field, part in zip(FIELDS, parts, strict=True)]

    # crontab(5) on Debian: a day field that starts with `*` counts as unrestricted, even `*/2`.
    days_either = not (parts[2].startswith("*") or parts[4].startswith("*"))
    if not days_either:
        _refuse_if_never(parts, values[2], values[3])
    # croniter takes a complete list for `*`, and then asks for both day fields where cron asks for either.
    elif any(len(values[place]) == FIELDS[place].size for place in (2, 4)):
        values[2], values[4] = frozenset(range(1, 32)), frozenset(range(7))
    return Schedule(
        canonical=" ".join(
            "*" if len(chosen) == field.size else ",".join(map(str, sorted(chosen)))
            for field, chosen in zip(FIELDS, values, strict=True)
        ),
        days_either=days_either,
        follows_clock=parts[0].startswith("*") or parts[1].startswith("*"),
    )


def _refuse_if_never(parts: list[str], days: frozenset[int], months: frozenset[int]) -> None:
    longest = max(_LONGEST_MONTH_DAYS[month - 1] for month in months)
    if min(days) > longest:
        raise ExpressionError(
            f"Cron expression never fires: day of month {shown(parts[2])} does not exist in month {shown(parts[3])}, "
            f"use 1-{longest}"
        )


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta(0)


def _first_occurrence(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clocks of `zone` first show `wall`, or the end of the gap that swallows it."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first
    # In a gap, PEP 495 reads fold=0 with the offset before it and fold=1 with the one after: the gap's end
    # lies between the two. Clocks change on whole minutes.
    minutes = int((first - second) / timedelta(minutes=1))
    steps = [second + timedelta(minutes=n) for n in range(minutes + 1)]
    for before, now in pairwise(steps):
        if _offset(before.astimezone(zone)) != _offset(now.astimezone(zone)):
            return now
    return first
