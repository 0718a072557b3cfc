"""Jobs, runs and owners for the tests of cron."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, select, update

from wsp.auth.models import User
from wsp.cron import arming, followups, planner, queue
from wsp.cron.models import CronJob, Follows, JobRun, Maintenance, Pause
from wsp.cron.rows import Batch, Claim
from wsp.cron.work import End, PlannedRun, Result, Status
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
