"""Our schedule against cronsim, which imitates Debian's cron independently.

Every disagreement has to be of one of these kinds, or the test fails. Where one is, a walk over every minute (second)
of the time in question is the judge.

- `ODD_CHANGE`: a job that follows real time runs whenever the clock shows a time that matches, and only then. Where a
  clock is set by other than whole hours (Lord Howe), at a quarter to (Chatham) or around midnight (Sao Paulo, Tehran,
  Beirut, Havana), cronsim counts hours from before the change, and misses such times, or takes one that is past or
  that is not in the expression.
- `SHOWN_AGAIN`: cronsim forgets the offset of where it starts, so that a fixed job that is looked at in the second of
  two equal hours is due in the first of them: in the past.

Not compared, for they are not the same language: a fixed job with seconds (cronsim lets every expression of six fields
follow real time), and cronsim's `L`, `#` and `LW`.

Several times of a fixed job that fall into one gap are one run, here and there. Debian's cron itself runs the job once
for each of them: test_expression_debian.py.
"""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from wsp.cron.schedule.expression import ExpressionError, Schedule, parse

ZONES = (
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Tehran",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Antarctica/Troll",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "UTC",
)
CASES_EACH = 200
MANY_CASES_EACH = 7_000  # 105,000 in all
WALKS_EACH = 40
TICKS_EACH = 4

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)

ODD_CHANGE = "the clock is set by other than whole hours, not at a whole hour, or around midnight"
SHOWN_AGAIN = "the clock shows a time again"


@cache
def changes(zone: ZoneInfo) -> list[datetime]:
    """The instants, to the hour, at which the clocks of a zone were or will be changed."""
    found, instant = [], datetime(2014, 1, 1, tzinfo=UTC)
    offset = instant.astimezone(zone).utcoffset()
    while instant.year < 2027:
        instant += HOUR
        if (now := instant.astimezone(zone).utcoffset()) != offset:
            found.append(instant)
            offset = now
    return found


def field(dice: random.Random, low: int, high: int, likely: int) -> str:
    kind = dice.randrange(8)
    value = likely if dice.random() < 0.5 else dice.randint(low, high)
    if kind <= 2:
        return "*"
    if kind == 3:
        return f"*/{dice.randint(1, high - low)}"
    if kind == 4:
        return f"{low}-{value}" if dice.random() < 0.5 else f"{value}-{high}"
    if kind == 5:
        return f"{value},{dice.randint(low, high)}"
    return str(value)


def expression(dice: random.Random, near: datetime, *, seconds: bool = False) -> str:
    return " ".join(
        [
            field(dice, 0, 59, near.minute),
            field(dice, 0, 23, near.hour),
            field(dice, 1, 31, near.day) if dice.random() < 0.4 else "*",
            field(dice, 1, 12, near.month) if dice.random() < 0.3 else "*",
            field(dice, 0, 7, near.isoweekday()) if dice.random() < 0.4 else "*",
            *([field(dice, 0, 59, near.second)] if seconds else []),
        ]
    )


def cronsims(text: str) -> str:
    """An expression as cronsim wants it: with the second first."""
    parts = text.split()
    return " ".join([*parts[5:], *parts[:5]])


def refused(text: str) -> bool:
    try:
        parse(text)
    except ExpressionError:
        return True
    return False


def disagreements(name: str, seed: str, cases: int) -> Counter[str]:
    """Compare so many cases, and count the disagreements of each kind. Fails for one that is of none."""
    dice, zone = random.Random(name + seed), ZoneInfo(name)
    near = changes(zone) or [datetime(2026, 5, 5, tzinfo=UTC)]
    kinds: Counter[str] = Counter()
    compared = 0
    while compared < cases:
        start = dice.choice(near) + timedelta(minutes=dice.randint(-3000, 300), seconds=dice.choice([0, 0, 29]))
        seconds = dice.random() < 0.2
        text = expression(dice, (start + dice.randint(0, 180) * MINUTE).astimezone(zone), seconds=seconds)
        if refused(text) or (seconds and not parse(text).follows_clock):
            continue
        compare(parse(text), CronSim(cronsims(text), start.astimezone(zone)), start, zone, kinds)
        compared += 1
    return kinds


def compare(schedule: Schedule, judge: CronSim, start: datetime, zone: ZoneInfo, kinds: Counter[str]) -> None:
    instant = start
    for _ in range(TICKS_EACH):
        expected, tick = next(judge).astimezone(UTC), schedule.next_after(instant, zone)
        assert tick is not None
        if expected <= instant and not schedule.follows_clock:
            kinds[SHOWN_AGAIN] += 1
            continue
        if tick != expected:
            where = f"{schedule.canonical!r} after {instant} in {zone}: {tick} here, {expected} there"
            assert schedule.follows_clock, where
            assert odd_change(zone, instant, max(tick, expected)), where
            assert tick == first_match(judge, instant, max(tick, expected), zone), where
            kinds[ODD_CHANGE] += 1
            return  # cronsim goes on from where it is
        instant = tick


def odd_change(zone: ZoneInfo, after: datetime, until: datetime) -> bool:
    """Were clocks set about then by other than whole hours, not at a whole hour, or around midnight?"""
    for change in changes(zone):
        if after - HOUR <= change <= until + HOUR:
            before, now = (change - HOUR).astimezone(zone), change.astimezone(zone)
            size = now.replace(tzinfo=None) - before.replace(tzinfo=None) - HOUR
            if size % HOUR or now.minute or {before.hour, now.hour} & {22, 23, 0, 1}:
                return True
    return False


def first_match(fields: CronSim, after: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
    """The first time that the clock shows a match, found by looking at each minute; None when there is none."""
    minute = after.replace(second=0)
    while minute <= until:
        wall = minute.astimezone(zone)
        if matches(fields, wall):
            for second in sorted(fields.seconds):
                if minute + second * SECOND > after:
                    return minute + second * SECOND
        minute += MINUTE
    return None


def matches(fields: CronSim, wall: datetime) -> bool:
    return bool(
        wall.minute in fields.minutes
        and wall.hour in fields.hours
        and wall.month in fields.months
        and fields.match_day(wall.date())
    )


@pytest.mark.parametrize("name", ZONES)
def test_agrees_with_cronsim(name: str) -> None:
    disagreements(name, "", CASES_EACH)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ZONES)
def test_agrees_with_cronsim_in_very_many_cases(name: str, record_property: Callable[[str, object], None]) -> None:
    for kind, count in disagreements(name, "many", MANY_CASES_EACH).items():
        record_property(kind, count)


@pytest.mark.parametrize(
    ("kind", "text", "name", "start"),
    [
        (ODD_CHANGE, "44 * * * *", "Australia/Lord_Howe", datetime(2019, 10, 5, 15, 8, tzinfo=UTC)),
        (SHOWN_AGAIN, "30 2 * * *", "Europe/Berlin", datetime(2025, 10, 26, 1, 10, tzinfo=UTC)),
    ],
)
def test_each_kind_of_disagreement_is_one(kind: str, text: str, name: str, start: datetime) -> None:
    """A kind that cronsim has given up is to be struck off the list."""
    zone, kinds = ZoneInfo(name), Counter[str]()
    compare(parse(text), CronSim(text, start.astimezone(zone)), start, zone, kinds)
    assert kinds[kind]


@pytest.mark.parametrize("name", ZONES)
def test_wildcard_jobs_agree_with_a_walk_over_every_minute(name: str) -> None:
    dice, zone = random.Random(name), ZoneInfo(name)
    near = changes(zone) or [datetime(2026, 5, 5, tzinfo=UTC)]
    walked = 0
    while walked < WALKS_EACH:
        start = dice.choice(near) - dice.randint(0, 300) * MINUTE
        text = expression(dice, (start + dice.randint(0, 180) * MINUTE).astimezone(zone))
        if refused(text) or not parse(text).follows_clock:
            continue
        fields = CronSim(text, start)
        minutes = (start + n * MINUTE for n in range(1, 26 * 60))
        expected = [minute for minute in minutes if matches(fields, minute.astimezone(zone))]
        found = parse(text).due_between(start, start + (26 * 60 - 1) * MINUTE, zone, 10_000)
        assert found == expected, f"{text!r} after {start} in {name}"
        walked += 1
