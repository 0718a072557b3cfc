"""The figures of a job: rates, percentiles, days on its own clock, failures."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from tests.cron.conftest import JobStore

from wsp.cron.history import stats
from wsp.cron.history.stats import Stats, percentile

NOW = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def figures(jobs: JobStore, job_id: int, *, days: int = 30, zone: ZoneInfo = BERLIN) -> Stats:
    with jobs.database.reading() as session:
        return stats.of_job(session, job_id, NOW, days=days, zone=zone)


class TestPercentile:
    @pytest.mark.parametrize(
        ("values", "percent", "expected"),
        [([], 50, None), ([7], 95, 7), ([3, 1, 2], 50, 2), (list(range(1, 101)), 95, 95), ([1, 2], 100, 2)],
    )
    def test_is_the_nearest_rank(self, values: list[int], percent: int, expected: int | None) -> None:
        assert percentile(values, percent) == expected


class TestTheFigures:
    def test_of_a_job_that_never_ran(self, jobs: JobStore) -> None:
        found = figures(jobs, jobs.add())
        assert found.all.success_rate is None
        assert found.all.outcomes.total() == 0
        assert found.by_day == {}
        assert found.complete

    def test_skipped_runs_are_no_failures(self, jobs: JobStore) -> None:
        job = jobs.add()
        for minute, status in enumerate(["succeeded", "succeeded", "succeeded", "timed_out", "skipped", "skipped"]):
            jobs.add_run(job, NOW - timedelta(minutes=minute), status, duration_ms=100 * minute)
        found = figures(jobs, job)
        assert found.all.success_rate == 0.75
        assert found.all.failed == 1
        assert found.all.outcomes["skipped"] == 2
        assert found.all.durations == [0, 100, 200]

    def test_what_runs_or_waits_is_not_counted(self, jobs: JobStore) -> None:
        job = jobs.add()
        jobs.add_run(job, NOW - timedelta(minutes=1), "running")
        jobs.add_run(job, NOW - timedelta(minutes=2), "queued")
        assert figures(jobs, job).all.outcomes.total() == 0

    def test_lateness_counts_from_when_it_was_to_start(self, jobs: JobStore) -> None:
        job, due = jobs.add(), NOW - timedelta(hours=1)
        late = due + timedelta(seconds=10, milliseconds=20)
        jobs.add_run(job, due, start_at=due + timedelta(seconds=10), started_at=late, duration_ms=1)
        assert figures(jobs, job).all.lateness == [20]

    def test_days_are_those_of_the_zone(self, jobs: JobStore) -> None:
        job = jobs.add()
        jobs.add_run(job, datetime(2026, 5, 16, 22, 30, tzinfo=UTC), "failed")  # 0:30 on the 17th in Berlin
        days = figures(jobs, job).by_day
        assert [day.isoformat() for day in days] == ["2026-05-17"]
        assert [day.isoformat() for day in figures(jobs, job, zone=ZoneInfo("UTC")).by_day] == ["2026-05-16"]

    def test_begin_at_midnight_so_many_days_ago(self, jobs: JobStore) -> None:
        job = jobs.add()
        jobs.add_run(job, datetime(2026, 5, 16, 21, 59, tzinfo=UTC))
        jobs.add_run(job, datetime(2026, 5, 16, 22, 0, tzinfo=UTC))
        found = figures(jobs, job, days=2)
        assert found.since == datetime(2026, 5, 17, tzinfo=BERLIN)
        assert found.all.outcomes.total() == 1

    def test_the_last_failures_come_first(self, jobs: JobStore) -> None:
        job = jobs.add()
        ids = [jobs.add_run(job, NOW - timedelta(minutes=20 - n), "failed", exit_code=n) for n in range(12)]
        assert [run.id for run in figures(jobs, job).last_failures] == ids[:1:-1]

    def test_another_jobs_runs_are_not_counted(self, jobs: JobStore) -> None:
        job, other = jobs.add(), jobs.add()
        jobs.add_run(other, NOW - timedelta(minutes=1))
        assert figures(jobs, job).all.outcomes.total() == 0

    def test_say_where_they_begin_when_there_is_too_much(self, jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stats, "MAX_RUNS", 2)
        job = jobs.add()
        for minute in range(3):
            jobs.add_run(job, NOW - timedelta(minutes=minute))
        found = figures(jobs, job)
        assert not found.complete
        assert found.since == NOW - timedelta(minutes=1)
        assert found.all.outcomes.total() == 2
