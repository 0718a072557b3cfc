"""What to be warned of before an expression is put to work."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from wsp.cron.schedule.expression import LONGEST_MONTH_DAYS, Schedule, parse, spelled_out, split, wall_of
from wsp.cron.schedule.fields import DAY, FIELDS, Field, shown
from wsp.cron.schedule.zones import first_change

_OPEN_STEP = re.compile(r"(?:\*|[0-9]+|H)/(?P<step>[0-9]+)", re.ASCII | re.IGNORECASE)
_SPREAD = re.compile(r"(?:^|,)H", re.IGNORECASE)
_MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
_STARTS_ANEW = {
    "second": "minute",
    "minute": "hour",
    "hour": "day",
    "day of month": "month",
    "month": "year",
    "day of week": "week",
}
_FEBRUARY = 2
_LEAP_DAY = 29
_SIX_FIELDS = 6
_YEAR = timedelta(days=366)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def warnings(text: str, key: int | None, start: datetime, zone: ZoneInfo) -> list[str]:
    """Sentences about a valid expression that may do other than what was meant, from `start` on for a year."""
    schedule = parse(text, key)
    if schedule.at_reboot:
        return []
    parts = split(spelled_out(text))
    return [
        *_of_seconds(parts),
        *_of_h(parts, key),
        *_of_frequency(schedule),
        *_of_days(parts, schedule),
        *_of_steps(parts),
        *_of_months(schedule),
        *_of_clock_changes(schedule, start, zone),
    ]


def _of_seconds(parts: list[str]) -> Iterator[str]:
    if len(parts) == _SIX_FIELDS:
        yield (
            f"The sixth field, {shown(parts[5])}, is the second: it comes last here, while some other schedulers "
            f"put it first"
        )


def _of_h(parts: list[str], key: int | None) -> Iterator[str]:
    if key is None and any(_SPREAD.search(part) for part in parts):
        yield "H is chosen by the id of the job: what is shown is an example of it"


def _of_frequency(schedule: Schedule) -> Iterator[str]:
    fields = schedule.canonical.split()
    seconds = _count(fields[5], FIELDS[5]) if len(fields) == _SIX_FIELDS else 1
    if seconds > 1:
        yield f"It runs {seconds} times in each minute that matches: a run has to be over before the next one is due"
    if fields[0] == "*" and fields[1] != "*":
        yield "It runs in every minute of the hours given: for one run an hour, write a number for the minute"


def _count(field_text: str, field: Field) -> int:
    return field.size if field_text == "*" else field_text.count(",") + 1


def _of_days(parts: list[str], schedule: Schedule) -> Iterator[str]:
    day, weekday = parts[2], parts[4]
    if schedule.days_either:
        yield (
            f"Day of month and day of week are OR'd: it runs on days that match {shown(day)} and on days that "
            f"match {shown(weekday)}"
        )
    elif "*" not in (day, weekday):
        yield (
            f"Day of month and day of week are AND'd, as one of them starts with *: it runs on days that match both "
            f"{shown(day)} and {shown(weekday)}"
        )


def _of_steps(parts: list[str]) -> Iterator[str]:
    for field, text in zip(FIELDS, parts, strict=False):
        for part in text.split(","):
            match = _OPEN_STEP.fullmatch(part)
            if match is not None and field.size % int(match["step"]):
                yield (
                    f"{field.name.capitalize()} {shown(part)} starts anew with each {_STARTS_ANEW[field.name]}: "
                    f"the last interval has another length"
                )


def _of_months(schedule: Schedule) -> Iterator[str]:
    days, months = schedule.canonical.split()[2:4]
    if days == "*" or schedule.days_either:
        return
    first = min(map(int, days.split(",")))
    chosen = range(1, len(_MONTHS) + 1) if months == "*" else map(int, months.split(","))
    without = [month for month in chosen if LONGEST_MONTH_DAYS[month - 1] < first]
    if without:
        names = ", ".join(_MONTHS[month - 1] for month in without)
        yield f"It does not run in {names}: there is no {DAY.name} {first}"
    if first == _LEAP_DAY and (months == "*" or str(_FEBRUARY) in months.split(",")):
        yield f"In February it runs in leap years only: there is no {DAY.name} {first} in the others"


def _of_clock_changes(schedule: Schedule, start: datetime, zone: ZoneInfo) -> Iterator[str]:
    """What is moved, left out or repeated. A job of every hour that follows real time just goes on."""
    if schedule.follows_clock and schedule.canonical.split()[1] == "*":
        return
    day = start.replace(microsecond=0)
    while day < start + _YEAR:
        change = first_change(day, day + _DAY, zone)
        day += _DAY
        if change is None:
            continue
        now = wall_of(change, zone)
        before = wall_of(change - _SECOND, zone) + _SECOND
        first, last = min(before, now), max(before, now)
        if next(schedule.walls(first - _SECOND)) < last:
            yield _of_change(schedule, before, now)


def _of_change(schedule: Schedule, before: datetime, now: datetime) -> str:
    if now > before:
        outcome = "is left out" if schedule.follows_clock else f"is run once, at {now:%H:%M}"
        return f"On {now:%Y-%m-%d} the clock jumps from {before:%H:%M} to {now:%H:%M}: what is due there {outcome}"
    outcome = "is run both times" if schedule.follows_clock else "is run the first time only"
    return f"On {now:%Y-%m-%d} the clock shows {now:%H:%M} to {before:%H:%M} twice: what is due there {outcome}"
