"""The scheduler's loop: what wakes it, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from wsp.cron import planner, scheduler
from wsp.cron.scheduler import Scheduler
from wsp.database import utc_now
from wsp.settings import Settings

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

DEADLINE_SECONDS = 30.0


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - a database row sets no event
            await asyncio.sleep(0.01)


class TestClock:
    @pytest.mark.parametrize("seconds", [3600.0, -3600.0])
    def test_that_is_set_has_jobs_counted_anew(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        monkeypatch.setattr(scheduler, "TURN_SECONDS", 0.01)
        real, shift = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: real() + shift)
        far = utc_now() + timedelta(days=3000)

        async def main() -> None:
            nonlocal shift
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            witness = jobs.add()
            one.look_again()
            await eventually(lambda: jobs.job(witness).next_run_at)
            job_id = jobs.add(next_run_at=far)
            shift = seconds
            await eventually(lambda: jobs.job(job_id).next_run_at != far)
            one.stop()
            await working

        asyncio.run(main())


class TestBacklog:
    def test_goes_on_past_jobs_whose_ticks_were_decided_before(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "LOOK_SECONDS", 1000.0)
        monkeypatch.setattr(planner, "BATCH_JOBS", 2)
        due = utc_now() - timedelta(minutes=5)
        for _ in range(2):
            jobs.add_run(jobs.add(next_run_at=due, cron_expr="0 0 1 1 *"), due)
        last = jobs.add(next_run_at=due + timedelta(seconds=1), cron_expr="0 0 1 1 *")

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(last))
            one.stop()
            await working

        asyncio.run(main())


class TestHealth:
    def test_a_loop_that_is_stuck_is_not_healthy(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "HEALTHY_SECONDS", 0.2)
        monkeypatch.setattr(scheduler, "TURN_SECONDS", 0.01)

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(one.is_healthy)
            threading.Event().wait(0.5)
            assert not one.is_healthy()
            await eventually(one.is_healthy)
            one.stop()
            await working

        asyncio.run(main())


class TestTrouble:
    def test_planning_goes_on_after_an_error(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        real, failures = planner.waiting, iter(range(3))

        def failing(session: object) -> planner.Waiting:
            if next(failures, None) is not None:
                raise RuntimeError("unforeseen")
            return real(session)  # type: ignore[arg-type]

        monkeypatch.setattr(planner, "waiting", failing)
        monkeypatch.setattr(scheduler, "RETRY_SECONDS", (0.01,))

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            job_id = jobs.add()
            one.look_again()
            await eventually(lambda: jobs.job(job_id).next_run_at)
            one.stop()
            await working

        asyncio.run(main())
        assert caplog.text.count("planning went wrong") == 3

    def test_a_run_that_was_planned_just_before_the_stop_is_not_started(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planned, go_on = threading.Event(), threading.Event()
        real = planner.plan

        def slow(*arguments: object, **more: object) -> planner.Batch:
            batch = real(*arguments, **more)  # type: ignore[arg-type]
            planned.set()
            assert go_on.wait(DEADLINE_SECONDS)
            return batch

        monkeypatch.setattr(planner, "plan", slow)

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            jobs.add(next_run_at=utc_now() - timedelta(seconds=1), cron_expr="0 0 1 1 *", command="touch started")
            working = asyncio.create_task(one.run())
            await eventually(planned.is_set)
            one.stop()
            await asyncio.sleep(0.05)
            go_on.set()
            await working

        asyncio.run(main())
        [run] = jobs.runs()
        assert (run.status, run.reason, run.started_at) == ("killed", "The scheduler was stopped", None)
        assert not (settings.files / "home/admin/started").exists()
