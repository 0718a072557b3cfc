"""When a cron expression is due: pure time arithmetic, with no clock and no database.

croniter finds matching wall-clock times; this module maps them to instants by the rules of Debian's cron(8):
a job whose minute or hour starts with `*` follows real time, any other job runs once for each wall-clock time,
right after the gap when the clock jumps over it and the first time only when the clock shows it twice.
"""

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter

from wsp.cron.schedule.fields import DAY, FIELDS, MONTH, ExpressionError, shown
from wsp.cron.schedule.zones import first_change

__all__ = [
    "LONGEST_MONTH_DAYS",
    "LONGEST_STEP_BACK",
    "MACROS",
    "MAX_CHARACTERS",
    "REBOOT",
    "ExpressionError",
    "Schedule",
    "parse",
    "spelled_out",
    "split",
    "wall_of",
]

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

LONGEST_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_YEARS_TO_LOOK_AHEAD = 50  # 29 February on a given weekday can be 40 years away, around 2100
_REMEMBERED = 4096

# Clocks that are set back further than this are being corrected, not changed for the season: cron(8).
LONGEST_STEP_BACK = timedelta(hours=3)

_FIRST_SPAN = timedelta(minutes=2)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Schedule:
    """A parsed expression."""

    canonical: str  # numbers and lists only, five or six fields
    days_either: bool  # one of the two day fields is enough
    follows_clock: bool  # a wildcard minute or hour: real time, not wall-clock time
    at_reboot: bool = False  # `@reboot`: due when the cron service starts, and at no time of the clock

    def next_after(self, instant: datetime, zone: ZoneInfo) -> datetime | None:
        """The first tick later than `instant` (aware) on the clocks of `zone`, in UTC and whole seconds.

        None for `@reboot`, and for nothing else.
        """
        return next(self.ticks(instant, zone), None)

    def due_between(self, after: datetime, until: datetime, zone: ZoneInfo, limit: int) -> list[datetime]:
        """The newest `limit` ticks later than `after` and not later than `until`, oldest first."""
        span = _FIRST_SPAN
        while True:
            start = max(after, until - span) if span < until - after else after
            ticks = []
            for tick in self.ticks(start, zone):
                if tick > until:
                    break
                ticks.append(tick)
            if len(ticks) >= limit or start == after:
                return ticks[-limit:]
            span *= 4

    def ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Every tick later than `instant`, in order. There is no end to them, but `@reboot` has none."""
        if self.at_reboot:
            return iter(())
        instant = instant.astimezone(UTC).replace(microsecond=0)
        return self._real_time_ticks(instant, zone) if self.follows_clock else self._fixed_ticks(instant, zone)

    def walls(self, wall: datetime) -> Iterator[datetime]:
        """The matching wall-clock times later than `wall` (naive, as they are), in order. Not for `@reboot`."""
        finder = copy(self._finder)  # to expand an expression takes croniter longer than to find a match
        finder.set_current(wall)
        while True:
            yield finder.get_next()

    @cached_property
    def _finder(self) -> croniter:
        return croniter(
            self.canonical,
            datetime(2000, 1, 1),  # noqa: DTZ001 - a wall clock, in no zone
            ret_type=datetime,
            day_or=self.days_either,
            max_years_between_matches=_YEARS_TO_LOOK_AHEAD,
        )

    def _fixed_ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        newest = instant
        walls = self.walls(wall_of(instant, zone))
        while True:
            wall = next(walls)
            tick = _first_showing(wall, zone)
            if tick > newest:
                newest = tick
                yield tick
                shown = wall_of(tick, zone)
                if shown != wall:  # all that falls into this gap is one run
                    walls = self.walls(shown)
            elif change := first_change(tick, newest, zone):  # the clock shows these times again: go past them
                walls = self.walls(wall_of(change - _SECOND, zone))

    def _real_time_ticks(self, instant: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        newest = known = instant  # the clock was looked at as it is from `known` on
        walls = self.walls(wall_of(instant, zone))
        while True:
            tick = _showing_after(newest, next(walls), zone)
            change = first_change(known, known + LONGEST_STEP_BACK, zone)
            if change is not None and (tick is None or tick >= change):
                # The clock is set before then. Go on with what it shows from there, which may be the past.
                known, newest = change, change - _SECOND
                walls = self.walls(wall_of(change, zone) - _SECOND)
            elif tick is not None:
                newest = known = tick
                yield tick


def parse(text: str, key: int | None = None) -> Schedule:
    """Read five fields, six with the second as the last, or a macro such as `@daily`.

    `key` is the id of the job, from which the values of `H` are taken; without it they are an example. An expression
    that is valid without a key is so with each. Raises ExpressionError with one sentence.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"Cron expression is too long, at most {MAX_CHARACTERS} characters are allowed")
    trimmed = text.strip(" \t\r\n")
    if trimmed.startswith("@"):
        return _parse_macro(trimmed)
    return _parse_fields(trimmed, key if "H" in trimmed.upper() else None)


def spelled_out(text: str) -> str:
    """An expression as fields: a macro's, or itself. `@reboot` has none and stays."""
    trimmed = text.strip(" \t\r\n")
    return MACROS.get(trimmed.lower(), trimmed)


def split(text: str) -> list[str]:
    """The fields of an expression that is none of the macros, as they were written."""
    return re.split(r"[ \t]+", text) if text else []


def wall_of(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the clocks of `zone` show, without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _parse_macro(text: str) -> Schedule:
    name = text.lower()
    if name == REBOOT:
        return Schedule(canonical=REBOOT, days_either=False, follows_clock=False, at_reboot=True)
    if name not in MACROS:
        macros = ", ".join([*MACROS, REBOOT])
        raise ExpressionError(f"Cron expression: {shown(text)} is not supported, use one of {macros}")
    return _parse_fields(MACROS[name], None)


@lru_cache(maxsize=_REMEMBERED)
def _parse_fields(text: str, key: int | None) -> Schedule:
    parts = split(text)
    if not len(FIELDS) - 1 <= len(parts) <= len(FIELDS):
        names = ", ".join(field.name for field in FIELDS[:-1])
        raise ExpressionError(
            f"Cron expression has {len(parts)} fields, 5 or 6 are allowed: {names}, and second if need be"
        )
    fields = FIELDS[: len(parts)]
    values = [field.parse(part, field.key_of(key or 0)) for field, part in zip(fields, parts, strict=True)]

    # crontab(5) on Debian: a day field that starts with `*` counts as unrestricted, even `*/2`.
    days_either = not (parts[2].startswith("*") or parts[4].startswith("*"))
    if not days_either:
        _refuse_if_never(parts[2], parts[3], key)
    # croniter takes a complete list for `*`, and then asks for both day fields where cron asks for either.
    elif any(len(values[place]) == FIELDS[place].size for place in (2, 4)):
        values[2], values[4] = frozenset(range(1, 32)), frozenset(range(7))
    return Schedule(
        canonical=" ".join(
            "*" if len(chosen) == field.size else ",".join(map(str, sorted(chosen)))
            for field, chosen in zip(fields, values, strict=True)
        ),
        days_either=days_either,
        follows_clock=parts[0].startswith("*") or parts[1].startswith("*"),
    )


def _refuse_if_never(days: str, months: str, key: int | None) -> None:
    """Raise ExpressionError for days that no month has; without a key, also when there are such choices of `H`."""
    undecided = key is None and "H" in (days + months).upper()
    day_keys = range(DAY.size) if undecided else (DAY.key_of(key or 0),)
    month_keys = range(MONTH.size) if undecided else (MONTH.key_of(key or 0),)
    # Each part of a list at its worst: what it is together cannot be worse than the best of them.
    first = min(max(min(DAY.parse(part, choice)) for choice in day_keys) for part in days.split(","))
    longest = max(min(_longest(MONTH.parse(part, choice)) for choice in month_keys) for part in months.split(","))
    if first <= longest:
        return
    if undecided:
        raise ExpressionError(
            f"Cron expression may never fire: day of month {shown(days)} can be one that month {shown(months)} "
            f"does not have, use H"
        )
    raise ExpressionError(
        f"Cron expression never fires: day of month {shown(days)} does not exist in month {shown(months)}, "
        f"use 1-{longest}"
    )


def _longest(months: frozenset[int]) -> int:
    return max(LONGEST_MONTH_DAYS[month - 1] for month in months)


def _first_showing(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clocks of `zone` first show `wall`, or the end of the gap that swallows it."""
    first, second = _showings(wall, zone)
    # In a gap, PEP 495 reads fold=0 with the offset before it and fold=1 with the one after: its end lies between.
    return first if first <= second else first_change(second, first, zone) or first


def _showing_after(instant: datetime, wall: datetime, zone: ZoneInfo) -> datetime | None:
    """The first instant later than `instant` at which the clocks show `wall`; None in a gap, where they never do."""
    first, second = _showings(wall, zone)
    if first > second:
        return None
    return first if first > instant else second


def _showings(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    aware = wall.replace(tzinfo=zone)
    return aware.astimezone(UTC), aware.replace(fold=1).astimezone(UTC)
