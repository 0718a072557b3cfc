"""Which runs and files are kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.folders import OUTPUTS
from wsp.cron.planning.work import Job, PlannedRun
from wsp.cron.policy import Policy
from wsp.cron.runner.spool import run_folder
from wsp.cron.server import retention
from wsp.cron.server.offload import Offload
from wsp.cron.server.retention import Retention, prune, prune_jobs
from wsp.database import utc_now
from wsp.settings import Settings

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def add_runs(jobs: JobStore, job_id: int, count: int, **values: Any) -> list[int]:
    ticks = [NOON + number * MINUTE for number in range(count)]
    return [jobs.add_run(job_id, tick, **{"finished_at": tick, **values}) for tick in ticks]


def left(jobs: JobStore, job_id: int) -> list[int]:
    return [run.id for run in jobs.runs(job_id)]


class TestPrune:
    def test_the_newest_stay(self, jobs: JobStore) -> None:
        job_id, other = jobs.add(), jobs.add()
        ids, others = add_runs(jobs, job_id, 5), add_runs(jobs, other, 5)
        with jobs.database.transaction() as session:
            assert prune(session, job_id, 3) == []
        assert (left(jobs, job_id), left(jobs, other)) == (ids[2:], others)

    def test_what_is_not_over_stays(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        open_ = [*add_runs(jobs, job_id, 1, status="running"), jobs.add_run(job_id, NOON - MINUTE, "queued")]
        over = [jobs.add_run(job_id, NOON + DAY + number * MINUTE) for number in range(2)]
        with jobs.database.transaction() as session:
            prune(session, job_id, 1)
        assert sorted(left(jobs, job_id)) == [*open_, over[1]]

    def test_what_ended_long_ago_goes(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        ids = add_runs(jobs, job_id, 5)
        with jobs.database.transaction() as session:
            prune(session, job_id, 100, NOON + 3 * MINUTE)
        assert left(jobs, job_id) == ids[3:]

    def test_tells_whose_files_are_to_be_removed(self, jobs: JobStore) -> None:
        job_id = jobs.add()
        in_file = add_runs(jobs, job_id, 2, output_in_file=True)
        with jobs.database.transaction() as session:
            assert prune(session, job_id, 1) == in_file[:1]

    def test_each_job_by_its_policy(self, jobs: JobStore, settings: Settings) -> None:
        by_setting, by_number, by_days = (
            jobs.add(policy=policy) for policy in (None, {"keep_runs": 1}, {"keep_days": 1})
        )
        ids = {job_id: add_runs(jobs, job_id, 4) for job_id in (by_setting, by_number, by_days)}
        few = settings.model_copy(update={"cron_keep_runs": 3})
        with jobs.database.transaction() as session:
            prune_jobs(session, few, ids, NOON + DAY + 2.5 * MINUTE)
        assert left(jobs, by_setting) == ids[by_setting][1:]
        assert left(jobs, by_number) == ids[by_number][3:]
        assert left(jobs, by_days) == ids[by_days][3:]


def run(job_id: int, **policy: Any) -> PlannedRun:
    return PlannedRun(1, Job(job_id, "admin", "x", "true", "", False, Policy(**policy)), NOON, NOON, "schedule")


class TestRetention:
    def test_prunes_a_job_now_and_then(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "PRUNE_SECONDS", 0.01)
        small, large = jobs.add(policy={"keep_runs": 2}), jobs.add()
        add_runs(jobs, small, 5)
        few = add_runs(jobs, large, 5)

        async def main() -> None:
            one = Retention(settings, Offload(jobs.database, "test"))
            pruning = asyncio.create_task(one.keep_pruning())
            one.written([run(small, keep_runs=2), run(large)])
            async with asyncio.timeout(30):
                while len(left(jobs, small)) > 2:  # noqa: ASYNC110 - a row sets no event
                    await asyncio.sleep(0.01)
            pruning.cancel()

        asyncio.run(main())
        assert left(jobs, large) == few

    def test_how_often_follows_from_how_many_are_kept(self, jobs: JobStore, settings: Settings) -> None:
        one = Retention(settings, Offload(jobs.database, "test"))
        one.written([run(number) for number in range(10_000)])  # of 1,000 each, a 20th more may pile up
        assert 100 < len(one._due) < 400

    def test_a_sweep_finds_what_no_run_brings_up(self, jobs: JobStore, settings: Settings) -> None:
        idle = jobs.add(policy={"keep_days": 1})
        add_runs(jobs, idle, 3, finished_at=utc_now() - 3 * DAY, output_in_file=True)
        kept = jobs.add_run(idle, NOON + DAY, finished_at=utc_now(), output_in_file=True)
        going = jobs.add_run(idle, NOON + 2 * DAY, "running")
        inline = jobs.add_run(idle, NOON + 3 * DAY, finished_at=utc_now())
        outputs = settings.data_dir / OUTPUTS
        for run_id in (*left(jobs, idle), 4711):
            Path(run_folder(outputs, run_id)).mkdir(parents=True)
        asyncio.run(Retention(settings, Offload(jobs.database, "test")).sweep())
        assert left(jobs, idle) == [kept, going, inline]
        assert sorted(int(path.name) for path in outputs.iterdir()) == [kept, going]
