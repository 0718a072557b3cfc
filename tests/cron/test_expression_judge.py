"""Our schedule against cronsim, which imitates Debian's cron independently.

Deliberate disagreements, left out below:
- Several times of a fixed job that fall into one gap are one run here; so they are with cronsim, but Debian's cron
  itself runs the job once for each of them, one right after the other.
- A wildcard job follows real time: it runs whenever the clock shows a time that matches, and only then. Where a gap is
  half an hour long (Lord Howe), or swallows midnight (Sao Paulo, Tehran), cronsim misses such times, or takes an hour
  that is not in the expression for the missing one. There, a walk over every minute is the judge.
- cronsim's six-field form, `L`, `#` and `LW`, which are not cron's.
"""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from wsp.cron.expression import ExpressionError, parse

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Tehran",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Pacific/Auckland",
    "UTC",
)
UNUSUAL_GAPS = {"Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Tehran"}
CASES_EACH = 250
WALKS_EACH = 40
TICKS_EACH = 6


def changes(zone: ZoneInfo) -> list[datetime]:
    """The instants, to the hour, at which the clocks of a zone were or will be changed."""
    found, instant = [], datetime(2014, 1, 1, tzinfo=UTC)
    offset = instant.astimezone(zone).utcoffset()
    while instant.year < 2027:
        instant += timedelta(hours=1)
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


def expression(dice: random.Random, near: datetime) -> str:
    return " ".join(
        [
            field(dice, 0, 59, near.minute),
            field(dice, 0, 23, near.hour),
            field(dice, 1, 31, near.day) if dice.random() < 0.4 else "*",
            field(dice, 1, 12, near.month) if dice.random() < 0.3 else "*",
            field(dice, 0, 7, near.isoweekday()) if dice.random() < 0.4 else "*",
        ]
    )


@pytest.mark.parametrize("name", ZONES)
def test_agrees_with_cronsim(name: str) -> None:
    dice, zone = random.Random(name), ZoneInfo(name)
    transitions = changes(zone) or [datetime(2026, 5, 5, tzinfo=UTC)]
    compared = 0
    while compared < CASES_EACH:
        start = dice.choice(transitions) + timedelta(minutes=dice.randint(-3000, 300), seconds=dice.choice([0, 0, 29]))
        text = expression(dice, (start + timedelta(minutes=dice.randint(0, 180))).astimezone(zone))
        if refused(text):
            continue
        schedule = parse(text)
        if schedule.follows_clock and name in UNUSUAL_GAPS:
            continue
        judge = CronSim(text, start.astimezone(zone))
        instant = start
        for _ in range(TICKS_EACH):
            expected = next(judge).astimezone(UTC)
            if expected <= instant:  # cronsim starts a fixed job anew in the second of two equal hours
                continue
            instant = schedule.next_after(instant, zone) or start
            assert instant == expected, f"{text!r} after {start} in {name}"
        compared += 1


@pytest.mark.parametrize("name", ZONES)
def test_wildcard_jobs_agree_with_a_walk_over_every_minute(name: str) -> None:
    dice, zone = random.Random(name), ZoneInfo(name)
    transitions = changes(zone) or [datetime(2026, 5, 5, tzinfo=UTC)]
    walked = 0
    while walked < WALKS_EACH:
        start = dice.choice(transitions) - timedelta(minutes=dice.randint(0, 300))
        text = expression(dice, (start + timedelta(minutes=dice.randint(0, 180))).astimezone(zone))
        if refused(text) or not parse(text).follows_clock:
            continue
        fields = CronSim(text, start)
        minutes = (start + timedelta(minutes=n) for n in range(1, 26 * 60))
        expected = [minute for minute in minutes if matches(fields, minute.astimezone(zone))]
        found = parse(text).due_between(start, start + timedelta(minutes=26 * 60 - 1), zone, 10_000)
        assert found == expected, f"{text!r} after {start} in {name}"
        walked += 1


def refused(text: str) -> bool:
    try:
        parse(text)
    except ExpressionError:
        return True
    return False


def matches(fields: CronSim, wall: datetime) -> bool:
    return bool(
        wall.minute in fields.minutes
        and wall.hour in fields.hours
        and wall.month in fields.months
        and fields.match_day(wall.date())
    )
