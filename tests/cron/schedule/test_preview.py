"""What is said of an expression before it is used: its next runs, a sentence, warnings."""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from wsp.cron.schedule.advice import warnings
from wsp.cron.schedule.description import describe
from wsp.cron.schedule.expression import ExpressionError, parse
from wsp.cron.schedule.preview import NextRun, preview

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
UTC_ZONE = ZoneInfo("UTC")


def runs(text: str, after: str, count: int, zone: ZoneInfo = BERLIN) -> list[NextRun]:
    return preview(text, None, datetime.fromisoformat(after).replace(tzinfo=zone), zone, count).next_runs


def shown(found: list[NextRun]) -> list[tuple[str, bool, str]]:
    return [(run.at.isoformat(), run.moved, run.note) for run in found]


def advice(text: str, zone: ZoneInfo = UTC_ZONE, key: int | None = None) -> list[str]:
    return warnings(text, key, datetime(2026, 1, 1, tzinfo=UTC), zone)


class TestNextRuns:
    def test_are_the_ticks_of_the_schedule(self) -> None:
        assert shown(runs("0 3 * * *", "2026-06-01 12:00", 2)) == [
            ("2026-06-02T03:00:00+02:00", False, ""),
            ("2026-06-03T03:00:00+02:00", False, ""),
        ]

    def test_one_that_a_gap_moves_is_marked(self) -> None:
        assert shown(runs("30 2 * * *", "2026-03-28 12:00", 2)) == [
            (
                "2026-03-29T03:00:00+02:00",
                True,
                "The clock jumps over 02:30 that day: it runs right after the gap",
            ),
            ("2026-03-30T02:30:00+02:00", False, ""),
        ]

    def test_one_that_stands_for_another_is_noted_and_not_moved(self) -> None:
        assert shown(runs("30,0 2,3 * * *", "2026-03-29 01:00", 2)) == [
            (
                "2026-03-29T03:00:00+02:00",
                False,
                "The clock jumps over 02:00 that day: this is also the run of that time",
            ),
            ("2026-03-29T03:30:00+02:00", False, ""),
        ]

    def test_a_gap_that_holds_none_is_not_noted(self) -> None:
        assert shown(runs("0 3 * * *", "2026-03-28 12:00", 1)) == [("2026-03-29T03:00:00+02:00", False, "")]

    def test_what_follows_real_time_is_not_moved(self) -> None:
        assert not any(run.moved or run.note for run in runs("*/20 * * * *", "2026-03-29 01:00", 9))

    def test_a_fixed_job_in_the_hour_that_comes_twice(self) -> None:
        assert shown(runs("30 2 * * *", "2026-10-24 12:00", 2)) == [
            (
                "2026-10-25T02:30:00+02:00",
                False,
                "The clock shows 02:30 twice that day: it runs the first time only",
            ),
            ("2026-10-26T02:30:00+01:00", False, ""),
        ]

    def test_a_wildcard_job_in_the_hour_that_comes_twice(self) -> None:
        found = shown(runs("*/30 2 * * *", "2026-10-24 12:00", 4))
        assert found == [
            ("2026-10-25T02:00:00+02:00", False, "The clock shows 02:00 twice that day: this is the first time"),
            ("2026-10-25T02:30:00+02:00", False, "The clock shows 02:30 twice that day: this is the first time"),
            ("2026-10-25T02:00:00+01:00", False, "The clock shows 02:00 twice that day: this is the second time"),
            ("2026-10-25T02:30:00+01:00", False, "The clock shows 02:30 twice that day: this is the second time"),
        ]

    def test_half_an_hour_on_lord_howe(self) -> None:
        assert shown(runs("15 2 * * *", "2026-10-03 12:00", 1, LORD_HOWE)) == [
            (
                "2026-10-04T02:30:00+11:00",
                True,
                "The clock jumps over 02:15 that day: it runs right after the gap",
            )
        ]

    def test_there_are_none_at_reboot(self) -> None:
        assert runs("@reboot", "2026-01-01 00:00", 20) == []

    def test_h_is_the_jobs_own(self) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for key in range(1, 20):
            (run,) = preview("H H * * *", key, start, UTC_ZONE, 1).next_runs
            assert run.at == parse("H H * * *", key).next_after(start, UTC_ZONE)


class TestDescription:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("0 3 * * *", "At 03:00"),
            ("@daily", "At 00:00"),
            ("@Hourly", "Every hour"),
            ("*/15 * * * *", "Every 15 minutes"),
            ("30 15 * * *", "At 15:30"),
            ("0 12 13 * fri", "At 12:00, on day 13 of the month, or on Friday"),
            ("0 12 */2 * mon", "At 12:00, every 2 days, and only if it is Monday"),
            ("0 0 * * fri-sun", "At 00:00, Friday through Sunday"),
            ("0 0 * * */7", "At 00:00, only on Sunday"),
            ("0 0 1 */6 *", "At 00:00, on day 1 of the month, only in January and July"),
            ("10-20/5,59 * * * *", "At 10, 15, 20, and 59 minutes past the hour"),
            ("0-59 0-23 * * *", "Every minute"),
            ("0 3 * * * 30", "At 03:00:30"),  # not the minute 3 of midnight
            ("* * * * * */10", "Every 10 seconds"),
            ("@reboot", "Each time the cron service starts"),
            (" 0\t3 * * * ", "At 03:00"),
            ("05 03 * * 07", "At 03:05, only on Sunday"),
            ("0 0 13 * fri-sun", "At 00:00, on day 13 of the month, or on Friday through Sunday"),
            ("0 0 */2 * mon-fri", "At 00:00, every 2 days, and only if it is Monday through Friday"),
            ("0 0 */1 * mon-fri", "At 00:00, Monday through Friday"),
            ("0 0 01-010 * 005-07", "At 00:00, between day 1 and 10 of the month, or on Friday through Sunday"),
        ],
    )
    def test_says_when(self, text: str, sentence: str) -> None:
        assert describe(text) == sentence

    def test_of_h_gives_the_jobs_values(self) -> None:
        minute, hour = parse("H H(0-5) * * *", 7).canonical.split()[:2]
        assert describe("H H(0-5) * * *", 7) == f"At {int(hour):02}:{int(minute):02}"

    def test_is_english_whatever_the_language_of_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LANG", "LC_ALL", "LANGUAGE"):
            monkeypatch.setenv(name, "de_DE.UTF-8")
        assert describe("*/15 * * * mon") == "Every 15 minutes, only on Monday"

    def test_there_is_one_for_every_expression(self) -> None:
        dice, said = random.Random(5), 0
        kinds = [
            "*",
            "*/2",
            "1",
            "3-5",
            "2,4",
            "1-6/2",
            "1/3",
            "5,1-3",
            "H",
            "H/2",
            "H(1-5)/2",
            "1,H",
            "4,2-6/2",
            "7/1",
        ]
        names = {3: ["jan", "Feb-apr", "mar,DEC", "jan-jul/2"], 4: ["sun", "fri-sun", "MON,wed", "07", "sun/2", "0-7"]}
        while said < 1500:
            parts = [dice.choice(kinds + names.get(place, [])) for place in range(dice.choice([5, 6]))]
            text = " ".join(parts)
            try:
                parse(text)
            except ExpressionError:
                continue
            sentence = describe(text, dice.choice([None, 3]))
            assert sentence, text
            assert sentence[0].isupper(), text
            assert "None" not in sentence, text
            said += 1


class TestWarnings:
    def test_there_are_none_for_what_is_plain(self) -> None:
        for text in (
            "0 3 * * *",
            "*/15 * * * *",
            "@hourly",
            "0 9-17 * * mon-fri",
            "@reboot",
            "0 0 28 * *",
            "* * * * *",
        ):
            assert advice(text) == [], text

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "0 12 13 * fri",
                ["Day of month and day of week are OR'd: it runs on days that match '13' and on days that match 'fri'"],
            ),
            (
                "0 12 13 * */2",
                [
                    "Day of month and day of week are AND'd, as one of them starts with *: it runs on days that match "
                    "both '13' and '*/2'",
                    "Day of week '*/2' starts anew with each week: the last interval has another length",
                ],
            ),
            (
                "0 3 * * * 30",
                [
                    "The sixth field, '30', is the second: it comes last here, while some other schedulers "
                    "put it first",
                ],
            ),
            (
                "* * * * * */10",
                [
                    "The sixth field, '*/10', is the second: it comes last here, while some other schedulers "
                    "put it first",
                    "It runs 6 times in each minute that matches: a run has to be over before the next one is due",
                ],
            ),
            (
                "* 3 * * *",
                ["It runs in every minute of the hours given: for one run an hour, write a number for the minute"],
            ),
            ("*/7 * * * *", ["Minute '*/7' starts anew with each hour: the last interval has another length"]),
            ("0 1/5 * * *", ["Hour '1/5' starts anew with each day: the last interval has another length"]),
            (
                "0 0 31 * *",
                ["It does not run in February, April, June, September, November: there is no day of month 31"],
            ),
            ("0 0 30 jan,feb *", ["It does not run in February: there is no day of month 30"]),
            (
                "0 0 29 * *",
                ["In February it runs in leap years only: there is no day of month 29 in the others"],
            ),
            ("0 0 29 3 *", []),
            ("0 0 30,1 * *", []),
            ("0 0 * * thu", []),
        ],
    )
    def test_are_given(self, text: str, expected: list[str]) -> None:
        assert advice(text) == expected

    def test_of_h_end_with_the_jobs_id(self) -> None:
        assert advice("H 3 * * *") == ["H is chosen by the id of the job: what is shown is an example of it"]
        assert advice("0,H 3 * * *") == ["H is chosen by the id of the job: what is shown is an example of it"]
        assert advice("H 3 * * *", key=5) == []

    def test_of_an_uneven_h(self) -> None:
        assert advice("H/7 * * * *", key=5) == [
            "Minute 'H/7' starts anew with each hour: the last interval has another length"
        ]
        assert advice("H(0-29)/10 * * * *", key=5) == []

    def test_tell_of_changes_of_the_clocks_within_a_year(self) -> None:
        assert advice("30 2 * * *", BERLIN) == [
            "On 2026-03-29 the clock jumps from 02:00 to 03:00: what is due there is run once, at 03:00",
            "On 2026-10-25 the clock shows 02:00 to 03:00 twice: what is due there is run the first time only",
        ]
        assert advice("*/20 2 * * *", BERLIN) == [
            "On 2026-03-29 the clock jumps from 02:00 to 03:00: what is due there is left out",
            "On 2026-10-25 the clock shows 02:00 to 03:00 twice: what is due there is run both times",
        ]
        assert advice("15 2 * * *", LORD_HOWE) == [
            "On 2026-10-04 the clock jumps from 02:00 to 02:30: what is due there is run once, at 02:30"
        ]

    def test_do_not_tell_of_changes_that_concern_nobody(self) -> None:
        for text in ("30 3 * * *", "*/15 * * * *", "30 * * * *", "30 2 * jun *", "30 2 * * mon"):
            assert advice(text, BERLIN) == [], text
