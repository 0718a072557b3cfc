"""When jobs are not started, and why."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from wsp.cron.planning.pauses import Pauses

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")


def reason(jobs: JobStore, instant: datetime = NOON, owner: str = "admin", tags: str = "") -> str | None:
    with jobs.database.reading() as session:
        return Pauses.load(session, BERLIN).reason_for(owner, tags, instant)


class TestPause:
    def test_nothing_is_paused(self, jobs: JobStore) -> None:
        with jobs.database.reading() as session:
            pauses = Pauses.load(session, BERLIN)
        assert not pauses
        assert pauses.reason_for("admin", "", NOON) is None

    def test_all_jobs_of_an_owner(self, jobs: JobStore) -> None:
        jobs.owner()
        jobs.pause()
        assert reason(jobs) == "The jobs of admin are paused"
        assert reason(jobs, owner="another") is None

    def test_from_when_it_began_to_when_it_ends(self, jobs: JobStore) -> None:
        jobs.owner()
        jobs.pause(paused_at=NOON, until=NOON + HOUR, reason="holidays")
        assert reason(jobs, NOON - MINUTE) is None
        assert reason(jobs, NOON) == "The jobs of admin are paused: holidays"
        assert reason(jobs, NOON + HOUR) is None


class TestMaintenance:
    def test_once(self, jobs: JobStore) -> None:
        jobs.maintenance(starts_at=NOON, ends_at=NOON + HOUR, reason="new disk")
        assert reason(jobs, NOON - MINUTE) is None
        assert reason(jobs, NOON) == "Maintenance: new disk"
        assert reason(jobs, NOON + HOUR) is None

    def test_of_one_owner(self, jobs: JobStore) -> None:
        jobs.maintenance(owner=jobs.owner(), starts_at=NOON)
        assert reason(jobs) == "Maintenance"
        assert reason(jobs, owner="another") is None

    @pytest.mark.parametrize(("tags", "held"), [(",backup,db,", True), (",dbs,", False), ("", False)])
    def test_of_jobs_with_a_tag(self, jobs: JobStore, tags: str, held: bool) -> None:
        jobs.maintenance(starts_at=NOON, tag="db")
        assert (reason(jobs, tags=tags) is not None) is held

    @pytest.mark.parametrize(
        ("zone", "at", "held"),
        [
            ("", "2026-05-18T11:59:59", False),
            ("", "2026-05-18T12:00:00", True),
            ("", "2026-05-18T12:29:59", True),
            ("", "2026-05-18T12:30:00", False),
            ("", "2026-05-19T12:15:00", True),
            ("UTC", "2026-05-18T12:15:00", False),
            ("UTC", "2026-05-18T14:15:00", True),
            ("Asia/Tokyo", "2026-05-18T05:15:00", True),
        ],
    )
    def test_again_and_again(self, jobs: JobStore, zone: str, at: str, held: bool) -> None:
        """At two in the afternoon: in Berlin that is noon of UTC."""
        jobs.maintenance(cron_expr="0 14 * * *", timezone=zone, duration_seconds=1800)
        instant = datetime.fromisoformat(at).replace(tzinfo=UTC)
        assert (reason(jobs, instant) is not None) is held

    def test_over_midnight_and_the_end_of_summer_time(self, jobs: JobStore) -> None:
        """Four hours from eleven in the evening, by the clock of a day that has twenty-five."""
        jobs.maintenance(cron_expr="0 23 * * *", duration_seconds=4 * 3600)
        assert reason(jobs, datetime(2026, 10, 25, 0, 59, tzinfo=UTC)) is not None
        assert reason(jobs, datetime(2026, 10, 25, 1, 0, tzinfo=UTC)) is None

    def test_recurring_within_bounds(self, jobs: JobStore) -> None:
        jobs.maintenance(cron_expr="0 * * * *", duration_seconds=600, starts_at=NOON, ends_at=NOON + HOUR)
        held = [reason(jobs, NOON + n * HOUR + MINUTE) is not None for n in (-1, 0, 1)]
        assert held == [False, True, False]

    @pytest.mark.parametrize("wrong", [{"cron_expr": "rubbish"}, {"cron_expr": "* * * * *", "timezone": "Moon/Crater"}])
    def test_what_cannot_be_read_holds_nothing_back(
        self, jobs: JobStore, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        jobs.maintenance(**wrong, duration_seconds=60)
        with caplog.at_level(logging.ERROR):
            assert reason(jobs) is None
        assert "maintenance 1 is passed over" in caplog.text
