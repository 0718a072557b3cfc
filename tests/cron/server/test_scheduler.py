"""The scheduler's loop: what wakes it, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.orm import Session

from wsp.cron.planning import planner, queue
from wsp.cron.planning.work import PlannedRun
from wsp.cron.server import scheduler
from wsp.cron.server.scheduler import Scheduler
from wsp.database import utc_now
from wsp.settings import Settings

if TYPE_CHECKING:
    from tests.cron.conftest import FakeRunner, JobStore

DEADLINE_SECONDS = 30.0


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - a database row sets no event
            await asyncio.sleep(0.01)


pytestmark = pytest.mark.usefixtures("fake_runners")

YEARLY = "0 0 1 1 *"


class TestClock:
    def test_that_is_set_back_far_has_jobs_counted_anew(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
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
            job_id = jobs.add(next_run_at=far, due_from=far - timedelta(days=1))
            shift = -3600.0
            await eventually(lambda: jobs.job(job_id).next_run_at != far)
            one.stop()
            await working

        asyncio.run(main())

    def test_that_is_set_has_no_run_start_before_its_time(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, fake_runners: type[FakeRunner]
    ) -> None:
        job_id = jobs.add(next_run_at=utc_now() + timedelta(seconds=2), cron_expr=YEARLY)
        real, shift = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: real() + shift)

        async def main() -> None:
            nonlocal shift
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(job_id))  # claimed ahead
            shift = -1000.0
            await asyncio.sleep(1.5)
            assert fake_runners.launched[0].calls == []
            shift = 0.0
            await eventually(lambda: fake_runners.launched[0].calls)
            one.stop()
            await working

        asyncio.run(main())


class TestZone:
    def test_that_was_another_before_has_jobs_counted_anew(
        self, jobs: JobStore, settings: Settings, store: str
    ) -> None:
        job_id = jobs.add(cron_expr="0 12 * * *")
        found: list[datetime | None] = []

        async def main(zone: str) -> None:
            one = Scheduler(settings.model_copy(update={"timezone": zone}), jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.job(job_id).next_run_at not in (None, *found))
            found.append(jobs.job(job_id).next_run_at)
            one.stop()
            await working

        asyncio.run(main("UTC"))
        asyncio.run(main("Asia/Tokyo"))
        assert [instant.hour for instant in found if instant] == [12, 3]


class TestBacklog:
    def test_goes_on_past_jobs_whose_ticks_were_decided_before(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "LOOK_SECONDS", 1000.0)
        monkeypatch.setattr(planner, "BATCH_JOBS", 2)
        due = utc_now() - timedelta(minutes=5)
        for _ in range(2):
            jobs.add_run(jobs.add(next_run_at=due, cron_expr=YEARLY), due)
        last = jobs.add(next_run_at=due + timedelta(seconds=1), cron_expr=YEARLY)

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(last))
            one.stop()
            await working

        asyncio.run(main())

    def test_of_many_more_than_there_are_places_for(
        self, jobs: JobStore, settings: Settings, fake_runners: type[FakeRunner]
    ) -> None:
        due = utc_now() - timedelta(seconds=1)
        ids = [jobs.add(next_run_at=due, cron_expr=YEARLY, command="true") for _ in range(40)]

        async def main() -> None:
            one = Scheduler(settings.model_copy(update={"cron_max_running": 3}), jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: len(jobs.runs()) == 40)
            await eventually(lambda: {run.status for run in jobs.runs()} == {"succeeded"})
            one.stop()
            await working

        asyncio.run(main())
        assert sorted(run.job_id for run in jobs.runs()) == ids
        assert max(len(call) for call in fake_runners.launched[0].calls) <= 3


class TestAhead:
    def test_a_tick_is_claimed_before_it_is_due_and_starts_when_it_is(
        self, jobs: JobStore, settings: Settings, fake_runners: type[FakeRunner]
    ) -> None:
        due = utc_now() + timedelta(seconds=1.5)
        job_id = jobs.add(next_run_at=due, cron_expr=YEARLY, command="true")

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(job_id))
            [run] = jobs.runs(job_id)
            if utc_now() < due:  # a machine may be so slow
                assert (run.status, run.service_id) == ("queued", "me")
            await eventually(lambda: jobs.runs(job_id)[0].status == "succeeded")
            one.stop()
            await working

        asyncio.run(main())
        [run] = jobs.runs(job_id)
        assert run.started_at is not None
        assert run.started_at >= due

    @pytest.mark.parametrize("values", [{"enabled": False}, {"cron_expr": "0 0 2 2 *"}])
    def test_a_tick_of_a_job_that_is_changed_meanwhile_is_none(
        self,
        jobs: JobStore,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        fake_runners: type[FakeRunner],
        values: dict[str, Any],
    ) -> None:
        monkeypatch.setattr(scheduler, "AHEAD", timedelta(seconds=30))
        due = utc_now() + timedelta(seconds=5)
        job_id = jobs.add(next_run_at=due, cron_expr="* * * * *", due_from=utc_now())

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(job_id))
            jobs.change(job_id, updated_at=utc_now(), due_from=utc_now(), **values)
            one.look_again()
            await eventually(lambda: not jobs.runs(job_id))
            one.stop()
            await working

        asyncio.run(main())
        assert fake_runners.launched[0].calls == []

    def test_a_tick_that_starts_while_its_change_is_read_keeps_its_row(
        self,
        jobs: JobStore,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        fake_runners: type[FakeRunner],
    ) -> None:
        monkeypatch.setattr(scheduler, "AHEAD", timedelta(seconds=30))
        started = threading.Event()
        refresh = queue.refresh

        def late(session: Session, runs: Sequence[PlannedRun], zone: ZoneInfo) -> dict[int, PlannedRun | None]:
            assert started.wait(DEADLINE_SECONDS)
            return refresh(session, runs, zone)

        monkeypatch.setattr(queue, "refresh", late)
        job_id = jobs.add(next_run_at=utc_now() + timedelta(seconds=3), command="true", due_from=utc_now())

        async def main() -> None:
            one = Scheduler(settings, jobs.database, "me")
            working = asyncio.create_task(one.run())
            await eventually(lambda: jobs.runs(job_id))
            jobs.change(job_id, updated_at=utc_now(), due_from=utc_now(), enabled=False)
            one.look_again()
            await eventually(lambda: fake_runners.launched[0].calls)
            started.set()
            await eventually(lambda: [run.status for run in jobs.runs(job_id)] == ["succeeded"])
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

        def failing(*arguments: Any) -> planner.Waiting:
            if next(failures, None) is not None:
                raise RuntimeError("unforeseen")
            return real(*arguments)

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

    def test_a_run_that_was_planned_just_before_the_stop_is_given_back(
        self, jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, fake_runners: type[FakeRunner]
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
            await eventually(lambda: fake_runners.launched)
            one.stop()
            await asyncio.sleep(0.05)
            go_on.set()
            await working

        asyncio.run(main())
        [run] = jobs.runs()
        assert (run.status, run.service_id, run.started_at) == ("queued", "", None)
        assert fake_runners.launched[0].calls == []
