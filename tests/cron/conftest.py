"""Jobs, runs and owners for the tests of cron."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, select, text, update

from wsp.auth.models import User
from wsp.cron.models import CronJob, Follows, JobRun, Maintenance, Pause
from wsp.cron.planning import arming, followups, planner, queue
from wsp.cron.planning.rows import Batch, Claim
from wsp.cron.planning.work import End, PlannedRun, Result, Status
from wsp.cron.runner.orders import Ended, Order, Started
from wsp.database import Database

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)


@dataclass
class JobStore:
    """The database as these tests look at it."""

    database: Database

    def owner(self, username: str = "admin", email: str = "admin@example.org") -> str:
        with self.database.transaction() as session:
            session.add(
                User(
                    username=username,
                    email=email,
                    role="admin",
                    status="active",
                    created_at=CREATED,
                    updated_at=CREATED,
                )
            )
        return username

    def add(self, **values: Any) -> int:
        """A job of `admin` that is due every minute and waits to be armed; `next_run_at` makes it an armed one."""
        with self.database.reading() as session:
            known = session.scalar(select(User.username).limit(1))
        owner = known or self.owner()
        job = CronJob(
            **{
                "owner": owner,
                "name": "nightly",
                "command": "echo hello",
                "cron_expr": "* * * * *",
                "created_at": CREATED,
                "updated_at": CREATED,
                "revision": 1,
                "armed_revision": 1 if "next_run_at" in values else 0,
                **values,
            }
        )
        with self.database.transaction() as session:
            session.add(job)
        return job.id

    def change(self, job_id: int, **values: Any) -> None:
        """What the API does to a job."""
        with self.database.transaction() as session:
            job = session.get_one(CronJob, job_id)
            job.revision += 1
            for name, value in values.items():
                setattr(job, name, value)

    def switch(self, job_id: int, now: datetime, **values: Any) -> None:
        """What the API does to a job when it is about when the job is due."""
        self.change(job_id, updated_at=now, due_from=now, **values)

    def set_owner(self, **values: Any) -> None:
        """Change every user."""
        with self.database.transaction() as session:
            session.execute(update(User).values(**values))

    def pause(self, owner: str = "admin", paused_at: datetime = CREATED, **values: Any) -> None:
        with self.database.transaction() as session:
            session.add(Pause(owner=owner, paused_at=paused_at, **values))

    def resume(self) -> None:
        with self.database.transaction() as session:
            session.execute(delete(Pause))

    def maintenance(self, **values: Any) -> None:
        with self.database.transaction() as session:
            session.add(Maintenance(created_at=CREATED, **values))

    def follow(self, job_id: int, after: int, condition: str) -> None:
        with self.database.transaction() as session:
            session.add(Follows(job_id=job_id, after_job_id=after, condition=condition))

    def run(self, run_id: int) -> JobRun:
        with self.database.reading() as session:
            return session.get_one(JobRun, run_id)

    def request(self, job_id: int, now: datetime) -> int:
        """What the API does when somebody wants a job to run at once."""
        return self.add_run(job_id, now, "queued", trigger="manual", start_at=now)

    def kill(self, run_id: int, now: datetime, reason: str = "Killed by admin") -> None:
        with self.database.transaction() as session:
            run = session.get_one(JobRun, run_id)
            run.kill_requested_at, run.kill_reason = now, reason

    def delete(self, job_id: int) -> None:
        with self.database.transaction() as session:
            session.delete(session.get_one(CronJob, job_id))

    def job(self, job_id: int) -> CronJob:
        with self.database.reading() as session:
            return session.get_one(CronJob, job_id)

    def runs(self, job_id: int | None = None) -> Sequence[JobRun]:
        """Runs, oldest tick first."""
        query = select(JobRun).order_by(JobRun.scheduled_for, JobRun.id)
        with self.database.reading() as session:
            return session.scalars(query if job_id is None else query.where(JobRun.job_id == job_id)).all()

    def add_run(self, job_id: int, scheduled_for: datetime, status: str = "succeeded", **values: Any) -> int:
        run = JobRun(
            **{"job_id": job_id, "scheduled_for": scheduled_for, "trigger": "schedule", "status": status, **values}
        )
        with self.database.transaction() as session:
            session.add(run)
        return run.id

    def somebody_waits(self) -> bool:
        """Does a transaction wait for another one's? On PostgreSQL."""
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with self.database.reading() as session:
            return session.scalar(text(waiting)) is not None


@dataclass
class Planning:
    """The steps of planning, each in a transaction, on the clock of a zone, by one scheduler."""

    database: Database
    claim: Claim
    zone: ZoneInfo = UTC_ZONE

    def arm(self, now: datetime, limit: int = 100) -> list[int]:
        with self.database.transaction() as session:
            return arming.arm(session, now, self.zone, limit=limit)

    def rearm(self, now: datetime, cause: arming.Cause, after_id: int = 0, limit: int = 100) -> int | None:
        with self.database.transaction() as session:
            return arming.rearm(session, now, self.zone, cause, after_id=after_id, limit=limit)

    def plan(self, now: datetime, *, ahead: float = 0.0, places: int = 1000, limit: int = 100) -> Batch:
        until = now + timedelta(seconds=ahead)
        with self.database.transaction() as session:
            return planner.plan(session, now, until, self.zone, self.claim, places=places, limit=limit)

    def claim_queued(self, now: datetime, limit: int = 100) -> Batch:
        with self.database.transaction() as session:
            return queue.claim_queued(session, now, self.zone, self.claim, limit=limit)

    def settle(self, runs: Sequence[PlannedRun], now: datetime) -> Batch:
        with self.database.transaction() as session:
            return queue.settle(session, runs, now, self.zone, self.claim)

    def refresh(self, runs: Sequence[PlannedRun]) -> dict[int, PlannedRun | None]:
        with self.database.transaction() as session:
            return queue.refresh(session, runs, self.zone)

    def waiting(self, now: datetime) -> planner.Waiting:
        with self.database.reading() as session:
            return planner.waiting(session, now)

    def reboot(self, now: datetime) -> Batch:
        with self.database.transaction() as session:
            return planner.reboot(session, now, self.claim)

    def start(self, *runs: PlannedRun) -> None:
        """Write down that their commands run."""
        with self.database.transaction() as session:
            session.execute(update(JobRun).where(JobRun.id.in_([run.run_id for run in runs])).values(status="running"))

    def end(self, run: PlannedRun, status: Status, now: datetime) -> End:
        """Write down what came of a run, and what follows it."""
        result = Result(status=status, started_at=run.start_at, finished_at=now)
        end = End(run, result, followups.will_retry(run, result))
        with self.database.transaction() as session:
            session.execute(
                update(JobRun).where(JobRun.id == run.run_id).values(status=status, finished_at=result.finished_at)
            )
            followups.follow_ups(session, [end], now)
        return end


@pytest.fixture
def planning(database: Database) -> Planning:
    """The steps of a scheduler that runs since half an hour before NOON."""
    claim = Claim(service_id="planner", node="here", boot_id="boot", running_since=NOON - timedelta(minutes=30))
    return Planning(database, claim)


@pytest.fixture
def jobs(database: Database) -> JobStore:
    """An empty store of jobs."""
    return JobStore(database)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """A function that waits for a condition, and fails when it does not come about within a deadline (seconds)."""

    def wait(condition: Callable[[], object], deadline: float = 30.0) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    return wait


class FakeRunner:
    """A runner without a process: commands end when a test says so, and `true` at once."""

    launched: ClassVar[list[FakeRunner]] = []
    abandoned: ClassVar[list[FakeRunner]] = []

    def __init__(self, runner_id: str) -> None:
        self.id = runner_id
        self.prepared: list[int] = []
        self.dropped: list[int] = []
        self.calls: list[list[int]] = []
        self.orders: dict[int, Order] = {}
        self.kept: dict[int, Ended | None] = {}  # those not acknowledged, and their ends
        self.killed: list[tuple[int, str, float | None]] = []
        self.closed = False
        self.on_started: Callable[[Sequence[Started]], None] = lambda _: None
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _: None
        self.on_gone: Callable[[FakeRunner], None] = lambda _: None

    def _hear(self, on_started: Any, on_ended: Any, on_gone: Any) -> FakeRunner:
        self.on_started, self.on_ended, self.on_gone = on_started, on_ended, on_gone
        return self

    @classmethod
    async def launch(cls, folder: Path, *, on_started: Any, on_ended: Any, on_gone: Any) -> FakeRunner:
        runner = cls(f"runner{len(cls.launched)}")._hear(on_started, on_ended, on_gone)
        cls.launched.append(runner)
        return runner

    @classmethod
    async def adopt(cls, folder: Path, *, on_started: Any, on_ended: Any, on_gone: Any) -> list[FakeRunner]:
        adopted = [runner._hear(on_started, on_ended, on_gone) for runner in cls.abandoned]
        cls.abandoned.clear()
        for runner in adopted:
            ends = [ended for ended in runner.kept.values() if ended is not None]
            starts = [Started(run_id, 4711, 1, time.time()) for run_id, ended in runner.kept.items() if ended is None]
            loop = asyncio.get_running_loop()
            loop.call_soon(runner.on_started, starts)
            loop.call_soon(runner.on_ended, ends)
        return adopted

    @property
    def runs(self) -> set[int]:
        return set(self.kept)

    def prepare(self, orders: Sequence[Order]) -> None:
        self.prepared += [order.run_id for order in orders]

    def drop(self, run_ids: Sequence[int]) -> None:
        self.dropped += [run_id for run_id in run_ids if run_id not in self.orders]

    def start(self, orders: Sequence[Order]) -> None:
        now = time.time()
        self.calls.append([order.run_id for order in orders])
        for order in orders:
            assert order.run_id not in self.orders, "started twice"
            self.orders[order.run_id] = order
            self.kept[order.run_id] = None
        loop = asyncio.get_running_loop()
        loop.call_soon(self.on_started, [Started(order.run_id, 2**22 + order.run_id, 1, now) for order in orders])
        for order in orders:
            if order.command == "true":
                loop.call_soon(self.finish, order.run_id)

    def finish(self, run_id: int, **values: Any) -> None:
        now = time.time()
        ended = Ended(run_id, **{"started_at": now, "ended_at": now, "duration_ms": 0, "exit_code": 0, **values})
        self.kept[run_id] = ended
        self.on_ended([ended])

    def kill(self, run_id: int, *, reason: str, grace: float | None = None) -> None:
        self.killed.append((run_id, reason, grace))
        self.finish(run_id, exit_code=143, cause="kill", reason=reason)

    def acknowledge(self, run_ids: Sequence[int]) -> None:
        for run_id in run_ids:
            del self.kept[run_id]

    async def close(self) -> None:
        self.closed = True

    def die(self) -> None:
        self.on_gone(self)


@pytest.fixture
def fake_runners(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeRunner]]:
    """Runners without processes."""
    monkeypatch.setattr("wsp.cron.server.runners.Runner", FakeRunner)
    yield FakeRunner
    FakeRunner.launched.clear()
    FakeRunner.abandoned.clear()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """The same as `until`, on an event loop."""

    async def wait(condition: Callable[[], object], deadline: float = 30.0) -> None:
        async with asyncio.timeout(deadline):
            while not condition():  # noqa: ASYNC110 - a database row sets no event
                await asyncio.sleep(0.01)

    return wait
