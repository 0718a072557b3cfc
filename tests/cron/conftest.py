"""Jobs, runs and owners for the tests of cron."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from wsp.auth.models import User
from wsp.cron.models import CronJob, JobRun
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
