"""Cron expressions: what is accepted, what is refused and how, and when they are due."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from wsp.cron.schedule.expression import ExpressionError, Schedule, parse
from wsp.cron.schedule.fields import MINUTE

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    """An instant from its wall-clock time, `…+` for the second time the clock shows it."""
    return datetime.fromisoformat(text.rstrip("+")).replace(tzinfo=zone, fold=int(text.endswith("+"))).astimezone(UTC)


SPREAD_OF_THREE = ["42 3 12 12 0 20", "38 9 3 2 1 9", "39 10 7 5 4 4"]
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


def seconds(expression: str, after: str, count: int) -> list[str]:
    """The next ticks on Berlin's clocks, to the second."""
    found = islice(parse(expression).ticks(at(after), BERLIN), count)
    return [tick.astimezone(BERLIN).strftime("%Y-%m-%d %H:%M:%S") for tick in found]


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
            ("@Reboot", "@reboot"),
            ("0 3 * * * 30", "0 3 * * * 30"),  # the second comes last
            ("* * * * * */20", "* * * * * 0,20,40"),
            ("* * * * * *", "* * * * * *"),
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

    @given(st.text(alphabet="0123456789*/-, ,sunjafebmo@LW#?H()\t", max_size=200))
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


class TestSpread:
    KEYS = range(1, 400)

    def values(self, text: str, place: int = 0) -> set[str]:
        return {parse(text, key).canonical.split()[place] for key in self.KEYS}

    def test_is_the_jobs_own_for_ever(self) -> None:
        # Written down: a job must not move when the server is upgraded.
        assert [parse("H H H H H H", key).canonical for key in (1, 2, 10**15)] == SPREAD_OF_THREE

    def test_uses_the_whole_field(self) -> None:
        for place, size in enumerate((60, 24, 28, 12, 7, 60)):
            assert len(self.values("H H H H H H", place)) == size

    def test_is_even(self) -> None:
        counts = Counter(min(MINUTE.parse("H", MINUTE.key_of(job_id))) for job_id in range(60_000))
        assert len(counts) == 60
        assert 850 < min(counts.values()) <= max(counts.values()) < 1150

    def test_fields_are_independent(self) -> None:
        together = {parse("H * * * * H", key).canonical for key in range(6_000)}
        assert len(together) > 2500  # of 3600; 60 if they were one

    def test_a_range_bounds_it(self) -> None:
        assert self.values("H(10-12) * * * *") == {"10", "11", "12"}
        assert self.values("* * * * H(mon-fri)", 4) == {"1", "2", "3", "4", "5"}
        assert self.values("* * * * h(fri-sun)", 4) == {"5", "6", "0"}

    def test_a_step_keeps_its_length_and_moves_its_start(self) -> None:
        assert self.values("H/15 * * * *") == {f"{n},{n + 15},{n + 30},{n + 45}" for n in range(15)}
        assert self.values("H(0-29)/10 * * * *") == {f"{n},{n + 10},{n + 20}" for n in range(10)}

    def test_stands_beside_others_in_a_list(self) -> None:
        assert self.values("0,H(30-31) * * * *") == {"0,30", "0,31"}

    def test_is_no_wildcard(self) -> None:
        assert parse("H H * * *").follows_clock is False
        assert parse("H/15 2 * * *").follows_clock is False
        assert parse("H * * * *").follows_clock is True
        assert parse("0 0 H * mon").days_either is True

    def test_without_a_key_it_is_valid_and_a_time(self) -> None:
        assert parse("H(3-4) H * * *").next_after(at("2026-01-01 00:00"), BERLIN) is not None

    def test_what_is_valid_without_a_key_is_valid_with_each(self) -> None:
        for text in ("0 0 H(27-29) 2 *", "0 0 H(1-31),H(2-31) H(1-3) *", "0 0 31 H(7-8) *", "0 0 H/31 * *"):
            if refusal(text) is None:
                for key in self.KEYS:
                    parse(text, key)
        assert refusal("0 0 H(27-29) 2 *") is None
        assert refusal("0 0 H(29-31) 2 *") is not None

    def test_with_a_key_only_its_own_choice_counts(self) -> None:
        sentences = {key: self.refusal_with(key, "0 0 H(28-31) 2 *") for key in self.KEYS}
        assert set(sentences.values()) == {
            None,
            "Cron expression never fires: day of month 'H(28-31)' does not exist in month '2', use 1-29",
        }

    def refusal_with(self, key: int, text: str) -> str | None:
        try:
            parse(text, key)
        except ExpressionError as error:
            return str(error)
        return None


class TestSeconds:
    def test_come_last(self) -> None:
        assert seconds("0 3 * * * 30", "2026-01-01 00:00", 2) == ["2026-01-01 03:00:30", "2026-01-02 03:00:30"]

    def test_every_so_many(self) -> None:
        assert seconds("* * * * * */25", "2026-01-01 00:00:49", 4) == [
            "2026-01-01 00:00:50",
            "2026-01-01 00:01:00",
            "2026-01-01 00:01:25",
            "2026-01-01 00:01:50",
        ]

    def test_a_part_of_a_second_is_before_the_next_one(self) -> None:
        instant = datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)
        assert next_tick(parse("* * * * * *"), instant, BERLIN) == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
        instant = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert next_tick(parse("* * * * * *"), instant, BERLIN) == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)

    def test_spring_a_fixed_job_runs_once_right_after_the_gap(self) -> None:
        assert seconds("30 2 * * * */20", "2026-03-29 01:00", 3) == [
            "2026-03-29 03:00:00",
            "2026-03-30 02:30:00",
            "2026-03-30 02:30:20",
        ]
        assert seconds("59 1 * * * 59", "2026-03-29 01:00", 1) == ["2026-03-29 01:59:59"]

    def test_autumn_a_fixed_job_runs_the_first_time_only(self) -> None:
        begin, end = at("2026-10-25 00:00"), at("2026-10-26 00:00")
        found = parse("0-59 2 * * * 0-59").due_between(begin, end, BERLIN, 10_000)
        assert found == [at("2026-10-25 02:00") + timedelta(seconds=n) for n in range(3600)]
        assert seconds("30 2 * * * 15", "2026-10-25 02:30:15+", 1) == ["2026-10-26 02:30:15"]

    def test_a_wildcard_job_misses_no_second(self) -> None:
        for begin in (at("2026-03-29 01:50"), at("2026-10-25 01:50"), at("2026-10-25 02:50"), at("2026-10-25 02:50+")):
            found = parse("* * * * * *").due_between(begin, begin + timedelta(minutes=20), BERLIN, 10_000)
            assert found == [begin + timedelta(seconds=n) for n in range(1, 20 * 60 + 1)]

    def test_a_wildcard_job_begins_at_the_very_second_of_a_change(self) -> None:
        assert seconds("* * * * * *", "2026-03-29 01:59:58", 3) == [
            "2026-03-29 01:59:59",
            "2026-03-29 03:00:00",
            "2026-03-29 03:00:01",
        ]
        assert seconds("*/30 2 * * * 0", "2026-10-25 02:59:59", 3) == [
            "2026-10-25 02:00:00",
            "2026-10-25 02:30:00",
            "2026-10-26 02:00:00",
        ]

    def test_the_second_hour_is_not_missed_for_a_match_that_is_far_away(self) -> None:
        assert ticks("*/30 2 25 10 *", "2026-10-25 02:45", 3) == [
            "2026-10-25 02:00+0100",
            "2026-10-25 02:30+0100",
            "2027-10-25 02:00+0200",
        ]


class TestReboot:
    def test_has_no_times(self) -> None:
        schedule, now = parse("@reboot"), at("2026-01-01 00:00")
        assert schedule.at_reboot
        assert schedule.next_after(now, BERLIN) is None
        assert schedule.due_between(now, now + timedelta(days=400), BERLIN, 10) == []

    def test_nothing_else_has_none(self) -> None:
        assert not parse("@daily").at_reboot


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
