"""When an expression will be due: what is shown before a job is made of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from wsp.cron.schedule.advice import warnings
from wsp.cron.schedule.description import describe
from wsp.cron.schedule.expression import Schedule, parse, wall_of
from wsp.cron.schedule.zones import first_change

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class NextRun:
    """A tick to come."""

    at: datetime  # on the clocks of the zone that was asked for
    moved: bool  # the clock does not show the time that is in the expression: it jumps over it
    note: str  # what a change of the clocks has to do with it; empty for most


@dataclass(frozen=True)
class Preview:
    """What is to be expected of an expression."""

    description: str
    next_runs: list[NextRun]
    warnings: list[str]


def preview(text: str, key: int | None, start: datetime, zone: ZoneInfo, count: int) -> Preview:
    """The next `count` ticks later than `start`, and what there is to say. Raises ExpressionError."""
    schedule = parse(text, key)
    return Preview(
        description=describe(text, key),
        next_runs=list(_next_runs(schedule, start, zone, count)),
        warnings=warnings(text, key, start, zone),
    )


def _next_runs(schedule: Schedule, start: datetime, zone: ZoneInfo, count: int) -> Iterator[NextRun]:
    for tick in islice(schedule.ticks(start, zone), count):
        wall = wall_of(tick, zone)
        moved = next(schedule.walls(wall - _SECOND)) != wall
        yield NextRun(tick.astimezone(zone), moved, _note(schedule, tick, wall, zone, moved=moved))


def _note(schedule: Schedule, tick: datetime, wall: datetime, zone: ZoneInfo, *, moved: bool) -> str:
    local = tick.astimezone(zone)
    first, second = local.replace(fold=0), local.replace(fold=1)
    if first.utcoffset() != second.utcoffset():
        if not schedule.follows_clock:
            return f"The clock shows {wall:%H:%M} twice that day: it runs the first time only"
        return f"The clock shows {wall:%H:%M} twice that day: this is the {'second' if local.fold else 'first'} time"
    if first_change(tick - _SECOND, tick, zone) is None or schedule.follows_clock:
        return ""
    skipped = wall_of(tick - _SECOND, zone) + _SECOND
    missed = next(schedule.walls(skipped - _SECOND))
    if missed >= wall:
        return ""
    if moved:
        return f"The clock jumps over {missed:%H:%M} that day: it runs right after the gap"
    return f"The clock jumps over {missed:%H:%M} that day: this is also the run of that time"
