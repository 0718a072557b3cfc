"""Claimed runs on their way to a runner and back, with runners that the tests hold in their hands."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import OperationalError

from wsp.cron.models import CronState
from wsp.cron.planning import queue
from wsp.cron.planning.rows import Claim
from wsp.cron.planning.work import Job, PlannedRun
from wsp.cron.policy import Policy
from wsp.cron.runner.frames import STDOUT, encode
from wsp.cron.runner.orders import Ended, Output
from wsp.cron.server import dispatch, journal, records
from wsp.cron.server.commands import HOME_TROUBLE
from wsp.cron.server.dispatch import STOPPED, Dispatcher
from wsp.cron.server.processes import boot_id
from wsp.cron.server.recovery import RUNNER_GONE
from wsp.database import utc_now
from wsp.heartbeat import node_name
from wsp.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cron.conftest import FakeRunner, JobStore

SECOND = timedelta(seconds=1)

Eventually = Callable[..., Awaitable[None]]


class Desk:
    """A dispatcher, and claims for it."""

    def __init__(self, jobs: JobStore, settings: Settings, runners: type[FakeRunner]) -> None:
        self.jobs = jobs
        self.runners = runners
        self.claim = Claim("me", node_name(), boot_id(), utc_now())
        self.written: list[int] = []
        self.dispatcher = Dispatcher(
            settings,
            jobs.database,
            self.claim,
            on_free=lambda: None,
            on_written=lambda runs: self.written.extend(run.run_id for run in runs),
        )

    async def open(self) -> None:
        self.dispatcher.open()
        async with asyncio.timeout(30):
            while not self.runners.launched:  # noqa: ASYNC110 - a fake sets no event
                await asyncio.sleep(0.01)

    @property
    def runner(self) -> FakeRunner:
        return self.runners.launched[-1]

    def claimed(
        self,
        job_id: int | None = None,
        *,
        after: float = 0.0,
        command: str = "true",
        contended: bool = False,
        **policy: Any,
    ) -> PlannedRun:
        """A run that is claimed, due so many seconds from now."""
        job_id = job_id or self.jobs.add(command=command, policy=policy or None)
        start_at = utc_now() + timedelta(seconds=after)
        run_id = self.jobs.add_run(job_id, start_at, "queued", start_at=start_at, **self.claim.columns)
        job = Job(job_id, "admin", "nightly", command, "", False, Policy(**policy))
        return PlannedRun(run_id, job, start_at, start_at, "schedule", contended=contended)

    def row(self, run: PlannedRun) -> Any:
        return next(row for row in self.jobs.runs() if row.id == run.run_id)

    def status(self, run: PlannedRun) -> str:
        status: str = self.row(run).status
        return status


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[Dispatcher]:
    await desk.open()
    try:
        yield desk.dispatcher
    finally:
        await desk.dispatcher.stop(patience=0, grace=0.1, write_within=5)


@pytest.fixture
def desk(jobs: JobStore, settings: Settings, fake_runners: type[FakeRunner]) -> Desk:
    return Desk(jobs, settings, fake_runners)


class TestOrders:
    def test_of_one_moment_go_out_together_and_not_before(self, desk: Desk, eventually: Eventually) -> None:
        due = [desk.claimed(after=1.0) for _ in range(3)]
        for run in due[1:]:
            object.__setattr__(run, "start_at", due[0].start_at)
        later = desk.claimed(after=1.5)

        async def main() -> None:
            async with working(desk) as dispatcher:
                await eventually(lambda: dispatcher._runners.primary)
                dispatcher.submit([later, *due])
                assert dispatcher.free_places == 200 - 4
                await eventually(lambda: desk.runner.prepared)
                assert not desk.runner.calls
                assert sorted(desk.runner.prepared) == sorted(run.run_id for run in (*due, later))
                await eventually(lambda: desk.runner.calls)
                assert utc_now() >= due[0].start_at
                await eventually(lambda: len(desk.written) == 4)
                await eventually(lambda: dispatcher.free_places == 200)

        asyncio.run(main())
        assert [sorted(call) for call in desk.runner.calls] == [[run.run_id for run in due], [later.run_id]]
        assert all(desk.status(run) == "succeeded" for run in (*due, later))

    def test_wait_until_the_runner_is_written_down(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = desk.claimed()
        known: list[str] = []

        def start(self: FakeRunner, _orders: Sequence[Any]) -> None:
            with desk.jobs.database.reading() as session:
                known.append(session.get_one(CronState, "runners:me").value)

        monkeypatch.setattr(desk.runners, "start", start)

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: known)

        asyncio.run(main())
        assert known == [desk.runner.id]

    def test_that_cannot_be_made_are_failed_runs(self, desk: Desk, settings: Settings, eventually: Eventually) -> None:
        (settings.files / "home").mkdir(parents=True)
        (settings.files / "home" / "admin").symlink_to("/etc")
        run = desk.claimed()

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: desk.written)

        asyncio.run(main())
        row = desk.row(run)
        assert (row.status, row.exit_code, row.reason, row.output) == ("failed", None, HOME_TROUBLE, HOME_TROUBLE)
        assert desk.runner.calls == []

    def test_of_a_claim_that_was_taken_away_meanwhile(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "STALE_CLAIM_SECONDS", 0.1)
        taken, kept = desk.claimed(after=1), desk.claimed(after=1)

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([taken, kept])
                with desk.jobs.database.transaction() as session:
                    session.get_one(type(desk.row(taken)), taken.run_id).service_id = "another"
                await eventually(lambda: desk.written)
                assert list(dispatcher.run_ids) == []

        asyncio.run(main())
        assert desk.runner.calls == [[kept.run_id]]
        assert desk.status(taken) == "queued"


class TestRefreshed:
    def test_what_has_changed_is_what_starts(self, desk: Desk, eventually: Eventually) -> None:
        changed, gone = desk.claimed(after=0.7), desk.claimed(after=0.7)
        job = Job(changed.job.id, "admin", "nightly", "sleep 1", "", False, Policy())
        other = PlannedRun(changed.run_id, job, changed.scheduled_for, changed.start_at, "schedule")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([changed, gone])
                assert dispatcher.waiting == [changed, gone]
                dispatcher.refreshed({changed.run_id: other, gone.run_id: None, 4711: None})
                await eventually(lambda: desk.runner.orders)
                await eventually(lambda: dispatcher.free_places == 199)
                desk.runner.finish(changed.run_id)
                await eventually(lambda: desk.written)

        asyncio.run(main())
        assert desk.runner.orders.keys() == {changed.run_id}
        assert desk.runner.orders[changed.run_id].command == "sleep 1"

    def test_nothing_stands_ready_for_what_is_not_going_to_start(self, desk: Desk, eventually: Eventually) -> None:
        changed, gone, killed, kept = (desk.claimed(after=60) for _ in range(4))

        async def main() -> None:
            async with working(desk) as dispatcher:
                await eventually(lambda: dispatcher._runners.primary)
                dispatcher.submit([changed, gone, killed, kept])
                await eventually(lambda: len(desk.runner.prepared) == 4)
                dispatcher.refreshed({changed.run_id: replace(changed, contended=True), gone.run_id: None})
                dispatcher.kill(killed.run_id, "Killed by admin")
                assert desk.runner.dropped == [changed.run_id, gone.run_id, killed.run_id]

        asyncio.run(main())


class TestOverlap:
    def test_of_a_job_that_still_runs_is_left_to_its_policy(self, desk: Desk, eventually: Eventually) -> None:
        first = desk.claimed(command="sleep 1")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([first])
                await eventually(lambda: desk.runner.orders)
                second = desk.claimed(first.job.id)
                dispatcher.submit([second])
                await eventually(lambda: desk.status(second) == "skipped")
                assert desk.row(second).reason == f"Run {first.run_id} of this job was still going"
                await eventually(lambda: dispatcher.free_places == 199)
                desk.runner.finish(first.run_id)
                third = desk.claimed(first.job.id)
                dispatcher.submit([third])
                await eventually(lambda: len(desk.written) == 2)

        asyncio.run(main())
        assert desk.runner.calls[0] == [first.run_id]
        assert len(desk.runner.calls) == 2

    def test_that_is_allowed_asks_nobody(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "settle", None)
        first = desk.claimed(command="sleep 1", overlap="allow")
        second = desk.claimed(first.job.id, command="sleep 1", overlap="allow")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([first, second])
                await eventually(lambda: len(desk.runner.orders) == 2)

        asyncio.run(main())

    def test_that_cannot_be_settled_is_left_to_recovery(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: Any) -> None:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr(dispatch, "settle", failing)
        run = desk.claimed(contended=True)

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: not dispatcher.run_ids)
                assert dispatcher.free_places == 200

        asyncio.run(main())
        assert desk.status(run) == "queued"

    def test_a_contended_run_asks_before_it_starts(self, desk: Desk, eventually: Eventually) -> None:
        run = desk.claimed(contended=True)
        desk.jobs.add_run(run.job.id, run.start_at - SECOND, "running", service_id="another")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: desk.status(run) == "skipped")
                await eventually(lambda: dispatcher.free_places == 200)

        asyncio.run(main())


class TestKilling:
    def test_is_told_again_only_with_another_grace(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The scheduler says it with each look as long as the run goes on."""
        run = desk.claimed(command="sleep 1")
        told: list[float | None] = []
        monkeypatch.setattr(desk.runners, "kill", lambda _self, _id, *, reason, grace: told.append(grace))

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: desk.runner.orders)
                for grace in (60, 60, 60, None, 5, 5):
                    dispatcher.kill(run.run_id, "enough", grace)
                assert told == [60, 5]

        asyncio.run(main())


class TestRows:
    def test_a_short_run_is_written_once(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal, "START_SECONDS", 1000.0)
        short, long = desk.claimed(), desk.claimed(command="sleep 1")
        started: list[int] = []
        monkeypatch.setattr(
            "wsp.cron.notices.alerts.on_starts",
            lambda _s, _settings, runs, _now: started.extend(run.run_id for run in runs),
        )

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([short, long])
                await eventually(lambda: desk.status(short) == "succeeded")
                assert desk.status(long) == "queued"
                assert started == [short.run_id]
                monkeypatch.setattr(journal, "START_SECONDS", 0.0)
                await eventually(lambda: desk.status(long) == "running")
                row = desk.row(long)
                assert (row.runner_id, row.pid) == (desk.runner.id, 2**22 + long.run_id)
                assert started == [short.run_id, long.run_id]

        asyncio.run(main())

    def test_one_that_cannot_be_written_does_not_keep_the_others_from_it(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def readable(frames: bytes) -> tuple[str, bool]:
            raise RuntimeError("unforeseen")

        good, bad = desk.claimed(), desk.claimed(command="sleep 1")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([good, bad])
                await eventually(lambda: desk.written)
                monkeypatch.setattr(records, "readable", readable)
                desk.runner.finish(bad.run_id, exit_code=4, output=Output(encode([(STDOUT, b"x")]), 1))
                await eventually(lambda: len(desk.written) == 2)

        asyncio.run(main())
        row = desk.row(bad)
        assert (row.status, row.exit_code, row.reason) == ("failed", 4, records.NOT_WRITTEN)
        assert desk.runner.kept == {}

    def test_a_database_that_is_away_is_waited_for_and_delays_no_command(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        away = True
        real = records.record_ends

        def failing(*arguments: Any) -> Any:
            if away:
                raise OperationalError("UPDATE", {}, Exception("away"))
            return real(*arguments)

        monkeypatch.setattr(journal, "record_ends", failing)
        monkeypatch.setattr(journal, "RETRY_SECONDS", (0.01,))
        first = desk.claimed()

        async def main() -> None:
            nonlocal away
            async with working(desk) as dispatcher:
                dispatcher.submit([first])
                await eventually(lambda: desk.runner.orders)
                second = desk.claimed()
                dispatcher.submit([second])
                await eventually(lambda: len(desk.runner.orders) == 2)
                await eventually(lambda: dispatcher.free_places == 200)  # their commands have ended
                assert desk.written == []
                assert len(desk.runner.kept) == 2  # not acknowledged
                away = False
                await eventually(lambda: len(desk.written) == 2)
                assert desk.runner.kept == {}

        asyncio.run(main())

    def test_a_job_that_was_deleted_meanwhile(self, desk: Desk, eventually: Eventually) -> None:
        run = desk.claimed(command="sleep 1")

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([run])
                await eventually(lambda: desk.runner.orders)
                desk.jobs.delete(run.job.id)
                desk.runner.finish(run.run_id)
                await eventually(lambda: desk.written)
                assert desk.runner.kept == {}

        asyncio.run(main())

    def test_a_thousand_quick_runs_leave_nothing_behind(self, desk: Desk, eventually: Eventually) -> None:
        job_id = desk.jobs.add(command="true")
        runs = [desk.claimed(job_id, overlap="allow") for _ in range(1000)]

        async def main() -> None:
            async with working(desk) as dispatcher:
                before = len(asyncio.all_tasks())
                dispatcher.submit(runs)
                await eventually(lambda: len(desk.written) == 1000)
                await eventually(lambda: len(asyncio.all_tasks()) <= before)
                assert (list(dispatcher.run_ids), dispatcher.free_places) == ([], 200)
                assert dispatcher._going == {}  # what would grow unseen
                assert dispatcher._times == []

        asyncio.run(main())
        assert {run.status for run in desk.jobs.runs()} == {"succeeded"}
        assert desk.runner.kept == {}


class TestKill:
    def test_one_that_runs_and_one_that_waits(self, desk: Desk, eventually: Eventually) -> None:
        going, waiting = desk.claimed(command="sleep 1"), desk.claimed(after=60)

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([going, waiting])
                await eventually(lambda: desk.runner.orders)
                for _ in range(2):
                    dispatcher.kill(going.run_id, "Killed by admin")
                    dispatcher.kill(waiting.run_id, "Killed by admin")
                await eventually(lambda: len(desk.written) == 2)

        asyncio.run(main())
        assert desk.runner.killed == [(going.run_id, "Killed by admin", None)]
        for run, exit_code in ((going, 143), (waiting, None)):
            row = desk.row(run)
            assert (row.status, row.reason, row.exit_code) == ("killed", "Killed by admin", exit_code)


class TestRunnerThatDies:
    def test_its_runs_are_lost_and_another_takes_over(self, desk: Desk, eventually: Eventually) -> None:
        victim = desk.claimed(command="sleep 1")
        later = desk.claimed(after=1.5)

        async def main() -> None:
            async with working(desk) as dispatcher:
                dispatcher.submit([victim, later])
                await eventually(lambda: desk.runner.orders)
                desk.runner.die()
                await eventually(lambda: len(desk.written) == 2)

        asyncio.run(main())
        assert (desk.status(victim), desk.row(victim).reason) == ("lost", RUNNER_GONE)
        assert desk.status(later) == "succeeded"
        first, second = desk.runners.launched
        assert (first.calls, second.calls) == ([[victim.run_id]], [[later.run_id]])
        with desk.jobs.database.reading() as session:
            assert session.get_one(CronState, "runners:me").value == f"{first.id} {second.id}"


class TestAdopt:
    def test_real_outcomes_are_written(self, desk: Desk, eventually: Eventually) -> None:
        going, ended, noted = (desk.claimed(command="sleep 1") for _ in range(3))
        with desk.jobs.database.transaction() as session:
            for run in (going, ended, noted):
                session.get_one(type(desk.row(run)), run.run_id).service_id = "dead"
            session.get_one(type(desk.row(noted)), noted.run_id).status = "succeeded"
        old = desk.runners("old")
        now = time.time()
        for run in (going, ended, noted):
            old.kept[run.run_id] = None
        for run in (ended, noted):
            old.kept[run.run_id] = Ended(run.run_id, now, now, 0, exit_code=3)
        old.kept[4711] = None  # its job was deleted
        desk.runners.abandoned.append(old)

        async def main() -> None:
            async with working(desk) as dispatcher:
                await dispatcher.adopt()
                assert "old" in dispatcher.met
                await eventually(lambda: desk.status(ended) == "failed")
                await eventually(lambda: old.runs == {going.run_id, 4711})
                await eventually(lambda: desk.status(going) == "running")  # it was not written before the crash
                row = desk.row(going)
                assert (row.service_id, row.runner_id, row.pid) == ("me", "old", 4711)
                assert not old.closed
                old.finish(going.run_id)
                old.finish(4711)
                await eventually(lambda: desk.status(going) == "succeeded")
                await eventually(lambda: not old.runs)
                await dispatcher.adopt()
                assert old.closed

        asyncio.run(main())
        assert desk.row(ended).exit_code == 3
        assert desk.row(noted).finished_at is None  # as it was

    def test_a_command_whose_run_is_recorded_as_over_is_ended(self, desk: Desk, eventually: Eventually) -> None:
        run = desk.claimed(command="sleep 1")
        with desk.jobs.database.transaction() as session:
            session.get_one(type(desk.row(run)), run.run_id).status = "lost"
        old = desk.runners("old")
        old.kept[run.run_id] = None
        desk.runners.abandoned.append(old)

        async def main() -> None:
            async with working(desk) as dispatcher:
                await dispatcher.adopt()
                await eventually(lambda: not old.runs)

        asyncio.run(main())
        assert [run_id for run_id, _, _ in old.killed] == [run.run_id]
        assert desk.status(run) == "lost"

    def test_what_goes_on_counts_for_overlap(self, desk: Desk, eventually: Eventually) -> None:
        going = desk.claimed(command="sleep 1")
        old = desk.runners("old")
        old.kept[going.run_id] = None
        desk.runners.abandoned.append(old)

        async def main() -> None:
            async with working(desk) as dispatcher:
                await dispatcher.adopt()
                second = desk.claimed(going.job.id)
                dispatcher.submit([second])
                await eventually(lambda: desk.status(second) == "skipped")

        asyncio.run(main())


class TestStop:
    def test_what_is_settled_meanwhile_is_given_back_and_not_started(
        self, desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its row may be claimed by another scheduler a moment later, which would start it again."""
        settling, go_on = threading.Event(), threading.Event()
        settle = queue.settle

        def slowly(*arguments: Any) -> Any:
            settling.set()
            assert go_on.wait(30)
            return settle(*arguments)

        monkeypatch.setattr(dispatch, "settle", slowly)
        run = desk.claimed(contended=True)

        async def main() -> None:
            await desk.open()
            desk.dispatcher.submit([run])
            await eventually(settling.is_set)
            asyncio.get_running_loop().call_later(0.1, go_on.set)
            await desk.dispatcher.stop(patience=0, grace=0.1, write_within=5)

        asyncio.run(main())
        assert desk.runner.calls == []
        assert (desk.status(run), desk.row(run).service_id) == ("queued", "")

    def test_what_runs_is_ended_and_what_waits_is_given_back(self, desk: Desk, eventually: Eventually) -> None:
        going, waiting = desk.claimed(command="sleep 1"), desk.claimed(after=60)

        async def main() -> None:
            await desk.open()
            desk.dispatcher.submit([going, waiting])
            await eventually(lambda: desk.runner.orders)
            desk.dispatcher.start_no_more()
            late = desk.claimed()
            desk.dispatcher.submit([late])
            await desk.dispatcher.stop(patience=0.1, grace=0.2, write_within=5)
            for run in (waiting, late):
                assert (desk.status(run), desk.row(run).service_id) == ("queued", "")

        asyncio.run(main())
        assert desk.runner.killed == [(going.run_id, STOPPED, 0.2)]
        assert (desk.status(going), desk.row(going).reason) == ("killed", STOPPED)
        assert desk.runner.closed
        assert desk.runner.kept == {}
