"""Cron expressions: what is accepted, what is refused and how, and when they are due."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from wsp.cron.expression import ExpressionError, Schedule, parse

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    """An instant from its wall-clock time, `…+` for the second time the clock shows it."""
    return datetime.fromisoformat(text.rstrip("+")).replace(tzinfo=zone, fold=int(text.endswith("+"))).astimezone(UTC)


FIELD_COUNTS = "5 or 6 are allowed: minute, hour, day of month, month, day of week, and second if need be"


def next_tick(schedule: Schedule, instant: datetime, zone: ZoneInfo) -> datetime:
    """The next tick of a schedule that has one."""
    tick = schedule.next_after(instant, zone)
    assert tick is not None
    return tick


def ticks(expression: str, after: str, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """The next ticks, as wall-clock times with their offset."""
    schedule, instant, found = parse(expression), at(after, zone), []
    for _ in range(count):
        instant = next_tick(schedule, instant, zone)
        found.append(instant.astimezone(zone).strftime("%Y-%m-%d %H:%M%z"))
    return found


def refusal(text: str) -> str | None:
    """The sentence with which an expression is refused."""
    try:
        parse(text)
    except ExpressionError as error:
        return str(error)
    return None


class TestParse:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("* * * * *", "* * * * *"),
            ("  0\t3   * * * \n", "0 3 * * *"),
            ("*/15 * * * *", "0,15,30,45 * * * *"),
            ("5/15 * * * *", "5,20,35,50 * * * *"),
            ("10-20/5,59 * * * *", "10,15,20,59 * * * *"),
            ("07 03 * * *", "7 3 * * *"),
            ("0 0 1 jan,JUL *", "0 0 1 1,7 *"),
            ("0 0 1 Jan-Mar *", "0 0 1 1,2,3 *"),
            ("0 0 * * 7", "0 0 * * 0"),
            ("0 0 * * 5-7", "0 0 * * 0,5,6"),
            ("0 0 * * fri-sun", "0 0 * * 0,5,6"),
            ("0 0 * * MON-fri", "0 0 * * 1,2,3,4,5"),
            ("0 0 * * 0-7", "0 0 * * *"),
            ("0 0 * * 7/2", "0 0 * * 0,2,4,6"),
            ("*/60 */24 */31 */12 */7", "0 0 1 1 0"),
            ("0-59 0-23 1-31 1-12 0-6", "* * * * *"),
            ("@hourly", "0 * * * *"),
            ("@daily", "0 0 * * *"),
            ("@Midnight", "0 0 * * *"),
            ("@weekly", "0 0 * * 0"),
            ("@monthly", "0 0 1 * *"),
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "0 0 1 1 *"),
            ("@reboot", "@reboot"),
            ("0 0 29 2 *", "0 0 29 2 *"),
        ],
    )
    def test_accepts(self, text: str, canonical: str) -> None:
        assert parse(text).canonical == canonical

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("61 * * * *", "Cron expression: minute '61' is not allowed, use 0-59"),
            ("* 24 * * *", "Cron expression: hour '24' is not allowed, use 0-23"),
            ("* * 0 * *", "Cron expression: day of month '0' is not allowed, use 1-31"),
            ("* * * 13 *", "Cron expression: month '13' is not allowed, use 1-12 or jan-dec"),
            ("* * * foo *", "Cron expression: month 'foo' is not allowed, use 1-12 or jan-dec"),
            ("* * * * 8", "Cron expression: day of week '8' is not allowed, use 0-7 or sun-sat"),
            ("* * * * jan", "Cron expression: day of week 'jan' is not allowed, use 0-7 or sun-sat"),
            ("*/0 * * * *", "Cron expression: minute step '0' is not allowed, use 1-60"),
            ("* */25 * * *", "Cron expression: hour step '25' is not allowed, use 1-24"),
            ("*/x * * * *", "Cron expression: minute step 'x' is not allowed, use 1-60"),
            ("0 22-2 * * *", "Cron expression: hour range '22-2' runs backwards, use 22-23,0-2"),
            ("1,,2 * * * *", "Cron expression: minute '1,,2' has an empty place in its list"),
            ("*-5 * * * *", "Cron expression: minute '*-5' is not allowed, use 0-59"),
            ("-5 * * * *", "Cron expression: minute '-5' is not allowed, use 0-59"),
            ("1-2-3 * * * *", "Cron expression: minute '1-2-3' is not allowed, use 0-59"),
            ("1/2/3 * * * *", "Cron expression: minute '1/2/3' is not allowed, use 0-59"),
            ("+5 * * * *", "Cron expression: minute '+5' is not allowed, use 0-59"),
            ("1.5 * * * *", "Cron expression: minute '1.5' is not allowed, use 0-59"),
            ("0 0 L * *", "Cron expression: day of month 'L' is not allowed, use 1-31"),
            ("0 0 15W * *", "Cron expression: day of month '15W' is not allowed, use 1-31"),
            ("0 0 ? * *", "Cron expression: day of month '?' is not allowed, use 1-31"),
            ("0 0 * * 5#3", "Cron expression: day of week '5#3' is not allowed, use 0-7 or sun-sat"),
            ("\N{ARABIC-INDIC DIGIT THREE} * * * *", "Cron expression: minute '\\u0663' is not allowed, use 0-59"),
            ("\0 * * * *", "Cron expression: minute '\\x00' is not allowed, use 0-59"),
            ("* * * *", f"Cron expression has 4 fields, {FIELD_COUNTS}"),
            ("0 * * * * * *", f"Cron expression has 7 fields, {FIELD_COUNTS}"),
            ("", f"Cron expression has 0 fields, {FIELD_COUNTS}"),
            ("* * * * * 60", "Cron expression: second '60' is not allowed, use 0-59"),
            ("* * * * * */61", "Cron expression: second step '61' is not allowed, use 1-60"),
            ("H(0-60) * * * *", "Cron expression: minute '60' is not allowed, use 0-59"),
            ("H(5) * * * *", "Cron expression: minute 'H(5)' is not allowed, use H, H(0-59) or H/2"),
            ("H5 * * * *", "Cron expression: minute 'H5' is not allowed, use H, H(0-59) or H/2"),
            ("H-5 * * * *", "Cron expression: minute 'H-5' is not allowed, use H, H(0-59) or H/2"),
            ("H/61 * * * *", "Cron expression: minute step '61' is not allowed, use 1-60"),
            ("H(0-9)/11 * * * *", "Cron expression: minute step '11' is not allowed, use 1-10"),
            ("* H(9-5) * * *", "Cron expression: hour range 'H(9-5)' runs backwards, use 9-23,0-5"),
            (
                "0 0 H(28-31) 2 *",
                "Cron expression may never fire: day of month 'H(28-31)' can be one that month '2' "
                "does not have, use H",
            ),
            (
                "0 0 31 H *",
                "Cron expression may never fire: day of month '31' can be one that month 'H' does not have, use H",
            ),
            (
                "@boot",
                "Cron expression: '@boot' is not supported, use one of "
                "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @reboot",
            ),
            (
                "@every_minute",  # FreeBSD's; Debian's cron has none of those
                "Cron expression: '@every_minute' is not supported, use one of "
                "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @reboot",
            ),
            ("*" * 10_000, "Cron expression is too long, at most 200 characters are allowed"),
            (
                "0 0 31 2 *",
                "Cron expression never fires: day of month '31' does not exist in month '2', use 1-29",
            ),
            (
                "0 0 30 feb *",
                "Cron expression never fires: day of month '30' does not exist in month 'feb', use 1-29",
            ),
            (
                "0 0 31 4,6,9,11 */2",
                "Cron expression never fires: day of month '31' does not exist in month '4,6,9,11', use 1-30",
            ),
        ],
    )
    def test_refuses_and_says_why(self, text: str, sentence: str) -> None:
        assert refusal(text) == sentence

    def test_a_day_that_never_comes_is_fine_beside_a_weekday_that_does(self) -> None:
        assert ticks("0 0 31 2 mon", "2026-02-01 00:00", 1) == ["2026-02-02 00:00+0100"]

    @given(st.text(max_size=300))
    def test_random_text_is_refused_with_a_sentence_or_accepted(self, text: str) -> None:
        sentence = refusal(text)
        assert sentence is None or sentence.startswith("Cron expression")
        assert sentence is None or (sentence.isascii() and sentence.isprintable() and len(sentence) < 250)

    @given(st.text(alphabet="0123456789*/-, ,sunjafebmo@LW#?\t", max_size=200))
    @settings(max_examples=500, deadline=None)
    def test_nothing_takes_long(self, text: str) -> None:
        begin = time.perf_counter()
        try:
            parse(text).next_after(datetime(2026, 1, 1, tzinfo=UTC), BERLIN)
        except ExpressionError:
            return
        finally:
            assert time.perf_counter() - begin < 2  # milliseconds in truth; a slow machine is no failure

    @given(st.lists(st.sampled_from(["*", "*/2", "1", "3-5", "2,4", "1-6/2", "1/3", "5,1-3"]), min_size=5, max_size=5))
    def test_reads_what_croniter_reads(self, parts: list[str]) -> None:
        try:
            mine = parse(" ".join(parts))
        except ExpressionError:
            return
        if mine.days_either and "*" in mine.canonical.split()[2:5:2]:
            return
        assert croniter.expand(mine.canonical)[0] == croniter.expand(" ".join(parts))[0]


class TestDays:
    def test_both_restricted_either_is_enough(self) -> None:
        assert ticks("0 12 13 * fri", "2026-03-01 00:00", 3) == [
            "2026-03-06 12:00+0100",
            "2026-03-13 12:00+0100",
            "2026-03-20 12:00+0100",
        ]

    def test_a_star_with_a_step_counts_as_unrestricted(self) -> None:
        assert ticks("0 12 */2 * mon", "2026-03-01 00:00", 3) == [
            "2026-03-09 12:00+0100",
            "2026-03-23 12:00+0100",
            "2026-04-13 12:00+0200",
        ]

    def test_a_complete_list_is_a_restriction(self) -> None:
        assert ticks("0 12 15 * 0-6", "2026-03-01 00:00", 2) == ["2026-03-01 12:00+0100", "2026-03-02 12:00+0100"]

    def test_leap_day_on_a_sunday(self) -> None:
        assert ticks("0 12 29 2 */7", "2033-01-01 00:00", 1) == ["2060-02-29 12:00+0100"]


class TestClockChanges:
    def test_spring_a_fixed_job_runs_right_after_the_gap(self) -> None:
        assert ticks("30 2 * * *", "2026-03-28 12:00", 2) == ["2026-03-29 03:00+0200", "2026-03-30 02:30+0200"]

    def test_spring_several_times_in_the_gap_are_one_run(self) -> None:
        assert ticks("0,15,30 2,3 * * *", "2026-03-29 01:59", 3) == [
            "2026-03-29 03:00+0200",
            "2026-03-29 03:15+0200",
            "2026-03-29 03:30+0200",
        ]

    def test_spring_a_wildcard_job_follows_real_time(self) -> None:
        assert ticks("*/30 * * * *", "2026-03-29 01:29", 3) == [
            "2026-03-29 01:30+0100",
            "2026-03-29 03:00+0200",
            "2026-03-29 03:30+0200",
        ]

    def test_spring_a_wildcard_minute_in_the_missing_hour_waits_a_day(self) -> None:
        assert ticks("*/30 2 * * *", "2026-03-28 12:00", 1) == ["2026-03-30 02:00+0200"]

    def test_autumn_a_fixed_job_runs_the_first_time_only(self) -> None:
        assert ticks("30 2 * * *", "2026-10-25 00:00", 2) == ["2026-10-25 02:30+0200", "2026-10-26 02:30+0100"]
        assert ticks("30 2 * * *", "2026-10-25 02:10+", 1) == ["2026-10-26 02:30+0100"]

    def test_autumn_a_wildcard_job_follows_real_time(self) -> None:
        assert ticks("*/30 * * * *", "2026-10-25 01:45", 5) == [
            "2026-10-25 02:00+0200",
            "2026-10-25 02:30+0200",
            "2026-10-25 02:00+0100",
            "2026-10-25 02:30+0100",
            "2026-10-25 03:00+0100",
        ]

    def test_autumn_every_minute_misses_none_of_the_day(self) -> None:
        begin, end = at("2026-10-25 00:00"), at("2026-10-26 00:00")
        assert len(parse("* * * * *").due_between(begin, end, BERLIN, 10_000)) == 25 * 60

    def test_half_an_hour_on_lord_howe(self) -> None:
        assert ticks("15 2 * * *", "2026-10-03 12:00", 1, LORD_HOWE) == ["2026-10-04 02:30+1100"]
        assert ticks("45 1 * * *", "2026-04-05 00:00", 2, LORD_HOWE) == [
            "2026-04-05 01:45+1100",
            "2026-04-06 01:45+1030",
        ]

    def test_a_day_without_midnight(self) -> None:
        assert ticks("@daily", "2018-11-03 12:00", 2, SAO_PAULO) == ["2018-11-04 01:00-0200", "2018-11-05 00:00-0200"]

    def test_utc_has_no_surprises(self) -> None:
        assert ticks("30 2 * * *", "2026-03-28 12:00", 1, ZoneInfo("UTC")) == ["2026-03-29 02:30+0000"]


class TestDueBetween:
    @pytest.mark.parametrize("expression", ["*/3 * * * *", "*/7 * * * *", "30 2 * * *", "0 0 29 2 *", "0 12 * * mon"])
    @pytest.mark.parametrize("days", [0.01, 1.5, 10])
    def test_is_what_stepping_finds(self, expression: str, days: float) -> None:
        schedule, after = parse(expression), at("2028-02-20 00:00")
        until = after + timedelta(days=days)
        stepped, tick = [], next_tick(schedule, after, BERLIN)
        while tick <= until:
            stepped.append(tick)
            tick = next_tick(schedule, tick, BERLIN)
        assert schedule.due_between(after, until, BERLIN, 10**6) == stepped
        assert schedule.due_between(after, until, BERLIN, 5) == stepped[-5:]

    def test_a_year_of_minutes_costs_no_more_than_its_end(self) -> None:
        begin = time.perf_counter()
        found = parse("* * * * *").due_between(at("2025-01-01 00:00"), at("2026-01-01 00:00"), BERLIN, 100)
        assert len(found) == 100
        assert found[-1] == at("2026-01-01 00:00")
        assert time.perf_counter() - begin < 5

    def test_nothing_before_its_time(self) -> None:
        now = at("2026-01-01 00:00")
        assert parse("* * * * *").due_between(now, now, BERLIN, 5) == []
        assert parse("* * * * *").due_between(now, now - timedelta(hours=1), BERLIN, 5) == []
