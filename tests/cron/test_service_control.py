"""Runs that are asked for, pauses, maintenance windows, and what answers say of the next tick, on both stores."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update

from wsp.auth.models import User
from wsp.auth.service import create_user
from wsp.cron import control, manual, service
from wsp.cron.models import CronJob, JobRun, Maintenance
from wsp.cron.surroundings import look_around
from wsp.database import Database, utc_now
from wsp.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable, WspError
from wsp.heartbeat import ServiceRow
from wsp.paging import Page

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

UTC_ZONE = ZoneInfo("UTC")
HOUR = timedelta(hours=1)
DEADLINE_SECONDS = 60.0


@pytest.fixture
def owner(database: Database) -> str:
    with database.transaction() as session:
        create_user(session, "ann", role="user", email="")
    return "ann"


@pytest.fixture
def scheduler(database: Database) -> None:
    """A scheduler that was heard of an instant ago, as far as the store tells."""
    now = utc_now()
    with database.transaction() as session:
        # Ahead, so that no test is too slow for it.
        session.add(
            ServiceRow(id="s1", node="here", kind="cron", pid=1, started_at=now, heartbeat_at=now + timedelta(days=1))
        )


def create(database: Database, owner: str, **given: Any) -> CronJob:
    with database.transaction() as session:
        values = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *"} | given
        return service.create_job(session, owner=owner, **values)


def request(database: Database, job: CronJob, visible_to: str | None = None) -> JobRun:
    with database.transaction() as session:
        return manual.request_run(session, visible_to, job.id, requested_by="ann")


def add_run(database: Database, job: CronJob, status: str, start_at: datetime | None, **values: Any) -> JobRun:
    run = JobRun(
        **{
            "job_id": job.id,
            "scheduled_for": start_at or utc_now(),
            "start_at": start_at,
            "trigger": "schedule",
            "status": status,
            **values,
        }
    )
    with database.transaction() as session:
        session.add(run)
    return run


@pytest.mark.usefixtures("scheduler")
class TestRequestRun:
    def test_leaves_a_row_that_any_scheduler_may_take(self, database: Database, owner: str) -> None:
        before = utc_now()
        run = request(database, create(database, owner, enabled=False))
        with database.reading() as session:
            row = session.get_one(JobRun, run.id)
        assert (row.status, row.trigger, row.service_id, row.requested_by) == ("queued", "manual", "", "ann")
        assert row.start_at is not None
        assert before <= row.start_at <= row.scheduled_for <= utc_now()
        assert row.scheduled_for.microsecond > 0

    def test_never_shares_the_instant_of_another_run(
        self, database: Database, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick = datetime(2026, 5, 18, 10, 0, tzinfo=UTC)
        monkeypatch.setattr(manual, "utc_now", lambda: tick)
        job = create(database, owner, overlap="allow")
        instants = [request(database, job).scheduled_for for _ in range(3)]
        assert [instant - tick for instant in instants] == [timedelta(microseconds=n) for n in (1, 2, 3)]

    @pytest.mark.parametrize(
        ("status", "ahead", "sentence"),
        [
            ("running", -HOUR, "Run {} of this job is still going"),
            ("queued", -HOUR, "Run {} of this job is about to start"),
            ("queued", None, "Run {} of this job is about to start"),
            ("queued", HOUR, None),  # a retry that waits, or a tick that is held a moment ahead
            ("succeeded", -HOUR, None),
        ],
    )
    def test_is_refused_where_it_would_be_skipped(
        self, database: Database, owner: str, status: str, ahead: timedelta | None, sentence: str | None
    ) -> None:
        for overlap in ("skip", "queue", "allow", "replace"):
            job = create(database, owner, overlap=overlap)
            start_at = None if ahead is None else utc_now() + ahead
            other = add_run(database, job, status, start_at)
            if overlap == "skip" and sentence is not None:
                with pytest.raises(Conflict, match=f"^{sentence.format(other.id)}$"):
                    request(database, job)
            else:
                request(database, job)

    def test_of_two_at_once_one_is_refused(self, database: Database, owner: str) -> None:
        job = create(database, owner)
        start, refused = threading.Barrier(4), list[Conflict]()

        def ask() -> None:
            start.wait()
            try:
                request(database, job)
            except Conflict as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 3

    def test_not_endlessly_many_wait(self, database: Database, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manual, "MAX_WAITING", 3)
        job = create(database, owner, overlap="queue")
        for _ in range(3):
            request(database, job)
        with pytest.raises(Conflict, match=r"^3 runs of this job wait already$"):
            request(database, job)

    def test_of_a_disabled_owner_nothing_runs(self, database: Database, owner: str) -> None:
        job = create(database, owner)
        with database.transaction() as session:
            session.execute(update(User).where(User.username == owner).values(status="disabled"))
        with pytest.raises(Conflict, match=r"^The owner of this job is disabled$"):
            request(database, job)

    def test_of_another_owner_is_not_found(self, database: Database, owner: str) -> None:
        with pytest.raises(NotFound):
            request(database, create(database, owner), "bob")


class TestWithoutScheduler:
    def test_no_run_is_promised(self, database: Database, owner: str) -> None:
        job = create(database, owner)
        with pytest.raises(Unavailable, match=r"^No scheduler is running"):
            request(database, job)
        with database.reading() as session:
            assert session.scalars(select(JobRun)).all() == []


class TestPause:
    def test_holds_until_it_is_over_or_lifted(self, database: Database, owner: str) -> None:
        def look() -> Any:
            with database.reading() as session:
                return control.pause_of(session, owner)

        assert look() is None
        with database.transaction() as session:
            first = control.pause(session, owner, until=None, reason="a")
        with database.transaction() as session:
            control.pause(session, owner, until=utc_now() + HOUR, reason="b")
        assert (look().paused_at, look().reason) == (first.paused_at, "b")
        with database.transaction() as session:
            control.pause(session, owner, until=utc_now() - HOUR, reason="c")
        assert look() is None
        with database.transaction() as session:
            again = control.pause(session, owner, until=None, reason="")
            assert again.paused_at > first.paused_at
        with database.transaction() as session:
            control.resume(session, owner)
        assert look() is None
        with database.transaction() as session:
            control.resume(session, owner)  # is no mistake

    def test_two_first_ones_at_once_both_succeed(
        self, database: Database, jobs: JobStore, owner: str, until: Callable[..., None]
    ) -> None:
        if database.is_sqlite:
            pytest.skip("SQLite lets one writer in at a time")

        def pause(reason: str) -> Any:
            with database.transaction() as session:
                return control.pause(session, owner, until=None, reason=reason)

        with ThreadPoolExecutor(1) as pool:
            with database.transaction() as session:
                first = control.pause(session, owner, until=None, reason="a")
                second = pool.submit(pause, "b")
                until(jobs.somebody_waits)
            paused = second.result(DEADLINE_SECONDS)
        assert (paused.paused_at, paused.reason) == (first.paused_at, "b")

    def test_of_nobody_is_refused(self, database: Database) -> None:
        with database.transaction() as session:
            for act in (control.resume, control.pause_of):
                with pytest.raises(Invalid, match="'nobody' does not exist"):
                    act(session, "nobody")
            with pytest.raises(Invalid, match="'nobody' does not exist"):
                control.pause(session, "nobody", until=None, reason="")


class TestMaintenance:
    def add(self, database: Database, owner: str | None, **given: Any) -> Maintenance:
        now = utc_now()
        with database.transaction() as session:
            values = {"starts_at": now, "ends_at": now + HOUR} | given
            return control.create_window(session, owner=owner, **values)

    def test_owners_see_theirs_and_those_for_everybody(self, database: Database, owner: str) -> None:
        with database.transaction() as session:
            create_user(session, "bob", role="user", email="")
        mine, bobs, all_ = (self.add(database, name) for name in (owner, "bob", None))
        with database.reading() as session:
            for visible_to, page, expected in (
                (owner, Page(), [mine.id, all_.id]),
                (None, Page(), [mine.id, bobs.id, all_.id]),
                (None, Page(owner="bob"), [bobs.id]),
                (owner, Page(owner="bob"), []),
            ):
                windows, total = control.list_windows(session, visible_to, page)
                assert ([window.id for window in windows], total) == (expected, len(expected))

    def test_owners_delete_theirs(self, database: Database, owner: str) -> None:
        with database.transaction() as session:
            create_user(session, "bob", role="user", email="")
        mine, bobs, all_ = (self.add(database, name) for name in (owner, "bob", None))

        def delete(visible_to: str | None, window_id: int) -> None:
            with database.transaction() as session:
                control.delete_window(session, visible_to, window_id)

        expected: list[tuple[int, type[WspError]]] = [
            (bobs.id, NotFound),
            (all_.id, Forbidden),
            (0, NotFound),
            (2**70, NotFound),
        ]
        for window_id, error in expected:
            with pytest.raises(error):
                delete(owner, window_id)
        delete(owner, mine.id)
        delete(None, all_.id)
        delete(None, bobs.id)
        with pytest.raises(NotFound):
            delete(None, bobs.id)

    def test_an_owner_has_not_endlessly_many(
        self, database: Database, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "MAX_WINDOWS", 2)
        self.add(database, None)
        for _ in range(2):
            self.add(database, owner)
        with pytest.raises(Conflict, match=re.escape("2 maintenance windows at most")):
            self.add(database, owner)
        self.add(database, None)


@pytest.mark.usefixtures("scheduler")
class TestNextRun:
    @pytest.fixture
    def job(self, database: Database, owner: str) -> CronJob:
        """A job that is armed for an hour from now."""
        job = create(database, owner, tags=["db"])
        with database.transaction() as session:
            session.execute(
                update(CronJob).where(CronJob.id == job.id).values(armed_revision=1, next_run_at=self.tick())
            )
        with database.reading() as session:
            return session.get_one(CronJob, job.id)

    @staticmethod
    def tick() -> datetime:
        return utc_now().replace(minute=0, second=0, microsecond=0) + 2 * HOUR

    def shown(self, database: Database, job: CronJob) -> tuple[datetime | None, bool]:
        with database.reading() as session:
            job = session.get_one(CronJob, job.id, populate_existing=True)
            around = look_around(session, [job], UTC_ZONE)
        return around.next_run_at(job), around.paused(job)

    def test_is_the_tick_that_a_scheduler_holds_already(self, database: Database, job: CronJob) -> None:
        held = self.tick() - HOUR
        for status, trigger, start_at, expected in (
            ("queued", "manual", held, self.tick()),
            ("queued", "retry", held, self.tick()),
            ("running", "schedule", held, self.tick()),
            ("queued", "schedule", held, held),
        ):
            run = add_run(database, job, status, start_at, trigger=trigger, service_id="s1")
            assert self.shown(database, job) == (expected, False)
            with database.transaction() as session:
                session.delete(session.get_one(JobRun, run.id))

    def test_is_null_where_a_pause_holds_it_up(self, database: Database, owner: str, job: CronJob) -> None:
        for until, expected in (
            (None, (None, True)),
            (self.tick() + HOUR, (None, True)),
            (self.tick() - timedelta(minutes=30), (self.tick(), True)),
            (utc_now() - HOUR, (self.tick(), False)),
        ):
            with database.transaction() as session:
                control.pause(session, owner, until=until, reason="")
            assert self.shown(database, job) == expected

    def test_is_null_while_the_owner_is_disabled(self, database: Database, owner: str, job: CronJob) -> None:
        for status, expected in (("disabled", None), ("active", self.tick())):
            with database.transaction() as session:
                session.execute(update(User).where(User.username == owner).values(status=status))
            assert self.shown(database, job) == (expected, False)

    def test_is_the_earliest_of_several_ticks_that_are_held(self, database: Database, job: CronJob) -> None:
        held = self.tick() - HOUR
        for second in (1, 0, 2):
            instant = held + timedelta(seconds=second)
            add_run(database, job, "queued", instant, service_id="s1")
        assert self.shown(database, job) == (held, False)

    def test_is_null_where_maintenance_holds_it_up(self, database: Database, owner: str, job: CronJob) -> None:
        tick, minutes = self.tick(), timedelta(minutes=5)
        begins = f"{tick.minute} {tick.hour} * * *"
        windows: list[tuple[dict[str, Any], datetime | None]] = [
            ({"starts_at": tick, "ends_at": tick + minutes}, None),
            ({"starts_at": tick - minutes, "ends_at": tick}, tick),
            ({"starts_at": tick, "ends_at": tick + minutes, "tag": "web"}, tick),
            ({"starts_at": tick, "ends_at": tick + minutes, "tag": "db"}, None),
            ({"cron_expr": begins, "duration_seconds": 60}, None),
            ({"cron_expr": begins, "duration_seconds": 60, "timezone": "Asia/Tokyo"}, tick),
        ]
        for window, expected in windows:
            with database.transaction() as session:
                added = control.create_window(session, owner=owner, **window)
            assert (window, self.shown(database, job)) == (window, (expected, False))
            with database.transaction() as session:
                control.delete_window(session, None, added.id)
