"""`POST /cronjobs/preview` against a running server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wsp.cron.schedule.expression import parse

pytestmark = pytest.mark.e2e

PATH = "/cronjobs/preview"
KEYS = ["cron_expr", "timezone", "description", "next_runs", "warnings"]


class TestPreview:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_shows_times_a_sentence_and_warnings(self, ann: Any, slash: str) -> None:
        asked = {
            "cron_expr": " 30 2 * * * ",
            "timezone": "Europe/Berlin",
            "count": 2,
            "from": "2026-03-28T12:00:00+01:00",
        }
        answer = ann("POST", PATH + slash, asked)
        assert answer.status_code == 200
        assert list(answer.json()) == KEYS
        assert answer.json() == {
            "cron_expr": "30 2 * * *",
            "timezone": "Europe/Berlin",
            "description": "At 02:30",
            "next_runs": [
                {
                    "at": "2026-03-29T03:00:00+02:00",
                    "moved": True,
                    "note": "The clock jumps over 02:30 that day: it runs right after the gap",
                },
                {"at": "2026-03-30T02:30:00+02:00", "moved": False},
            ],
            "warnings": [
                "On 2026-03-29 the clock jumps from 02:00 to 03:00: what is due there is run once, at 03:00",
                "On 2026-10-25 the clock shows 02:00 to 03:00 twice: what is due there is run the first time only",
                "On 2027-03-28 the clock jumps from 02:00 to 03:00: what is due there is run once, at 03:00",
            ],
        }

    def test_twenty_times_from_now_on_the_servers_clock(self, ann: Any) -> None:
        begin = datetime.now(UTC)
        body = ann("POST", PATH, {"cron_expr": "* * * * *"}).json()
        assert len(body["next_runs"]) == 20
        assert all(run["at"].endswith("+07:00") for run in body["next_runs"])
        first = datetime.fromisoformat(body["next_runs"][0]["at"])
        assert begin < first < begin + timedelta(minutes=2)

    def test_at_reboot_has_no_times(self, ann: Any) -> None:
        body = ann("POST", PATH, {"cron_expr": "@reboot"}).json()
        assert (body["next_runs"], body["warnings"]) == ([], [])
        assert body["description"] == "Each time the cron service starts"

    def test_h_is_an_example_unless_the_job_is_named(self, ann: Any) -> None:
        asked = {"cron_expr": "H H * * *", "timezone": "UTC", "count": 1, "from": "2026-01-01T00:00:00Z"}
        assert ann("POST", PATH, asked).json()["warnings"] == [
            "H is chosen by the id of the job: what is shown is an example of it"
        ]
        body = ann("POST", PATH, asked | {"job_id": 77}).json()
        minute, hour = parse("H H * * *", 77).canonical.split()[:2]
        assert body["warnings"] == []
        assert body["next_runs"][0]["at"] == f"2026-01-01T{int(hour):02}:{int(minute):02}:00+00:00"

    def test_a_hundred_runs_of_the_rarest_expression_are_in_years_that_there_are(self, ann: Any) -> None:
        asked = {"cron_expr": "0 0 29 2 */7", "count": 100, "from": "2199-12-31T23:59:59Z"}
        assert len(ann("POST", PATH, asked).json()["next_runs"]) == 100

    @pytest.mark.parametrize(
        ("changed", "field", "sentence"),
        [
            ({"cron_expr": ""}, "cron_expr", "Cron expression is required"),
            (
                {"cron_expr": "61 * * * *"},
                "cron_expr",
                "Cron expression: minute '61' is not allowed, use 0-59",
            ),
            (
                {"timezone": "Mars/Olympus"},
                "timezone",
                "Timezone 'Mars/Olympus' is not known, use an IANA name such as Europe/Berlin",
            ),
            ({"timezone": 5}, "timezone", "Timezone must be a string"),
            ({"count": 0}, "count", "Count must be at least 1"),
            ({"count": 101}, "count", "Count must be at most 100"),
            ({"count": "5"}, "count", "Count must be an integer"),
            (
                {"from": "tomorrow"},
                "from",
                "From must be a time with an offset (RFC 3339), as in 2026-05-18T17:44:36+07:00",
            ),
            ({"from": "2200-01-01T00:00:00Z"}, "from", "From must be before 2200-01-01"),
            ({"from": 5}, "from", "From must be a string"),
            ({"start": "2026-01-01T00:00:00Z"}, "start", "Unknown field 'start'"),
            ({"job_id": 0}, "job_id", "Job id must be at least 1"),
        ],
    )
    def test_says_what_is_wrong(self, ann: Any, changed: dict[str, Any], field: str, sentence: str) -> None:
        answer = ann("POST", PATH, {"cron_expr": "0 3 * * *"} | changed)
        assert answer.status_code == 400
        assert answer.json()["error"] == sentence
        assert {"field": field, "message": sentence} in answer.json()["details"]

    def test_needs_a_key_for_cron(self, make_caller: Any) -> None:
        for permission, status in (("cron", 200), ("read", 403), ("ftp", 403)):
            answer = make_caller(permissions=(permission,))("POST", PATH, {"cron_expr": "0 3 * * *"})
            assert (permission, answer.status_code) == (permission, status)

    def test_stores_nothing(self, ann: Any) -> None:
        ann("POST", PATH, {"cron_expr": "0 3 * * *"})
        assert ann("GET", "/cronjobs/").json() == []
