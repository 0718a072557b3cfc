"""Jobs, runs and owners for the tests of cron."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

from wsp.auth.models import User
from wsp.cron.models import CronJob, JobRun
from wsp.cron.runner.orders import Ended, Order, Started
from wsp.database import Database

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


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
        run = JobRun(job_id=job_id, scheduled_for=scheduled_for, trigger="schedule", status=status, **values)
        with self.database.transaction() as session:
            session.add(run)
        return run.id


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
            asyncio.get_running_loop().call_soon(runner.on_ended, ends)
        return adopted

    @property
    def runs(self) -> set[int]:
        return set(self.kept)

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
    monkeypatch.setattr("wsp.cron.runners.Runner", FakeRunner)
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
