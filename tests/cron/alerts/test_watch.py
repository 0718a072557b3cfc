"""Alarms that no end of a run raises: jobs that are overdue, runs that go on for too long."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from wsp.auth.models import User
from wsp.cron.control import pause, resume
from wsp.cron.models import CronJob, JobRun, Maintenance, Pause
from wsp.cron.notifier import Notifier
from wsp.cron.outbox import NO_ADDRESS
from wsp.cron.watch import next_overdue, raise_overdue
from wsp.database import Database, utc_now
from wsp.heartbeat import Heartbeat
from wsp.rest.fields import LATEST

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
DAY = {"expect_every": 86_400, "grace_seconds": 3600}


@pytest.fixture
def look(books: Any) -> Callable[..., int]:
    """One look for overdue jobs."""

    def look(now: datetime = NOON) -> int:
        with books.database.transaction() as session:
            return raise_overdue(session, books.settings, now)

    return look


class TestOverdue:
    def test_is_told_once(self, books: Any, look: Any) -> None:
        books.webhook("job.*")
        job = books.job(email_on_complete="job@example.org", expect_by=NOON, policy=DAY)
        look(NOON - timedelta(microseconds=1))
        assert books.notices() == []
        look(NOON + timedelta(seconds=2))
        look(NOON + timedelta(days=9))
        (notice,) = books.notices()
        assert (notice.kind, notice.recipient, notice.run_id) == ("overdue", "job@example.org", None)
        assert (notice.due_at, notice.created_at) == (NOON, NOON + timedelta(seconds=2))
        assert (books.jobs.job(job.id).expect_by, books.jobs.job(job.id).alarm) == (None, "overdue")
        (delivery,) = books.deliveries()
        assert delivery.event == "job.overdue"
        assert json.loads(delivery.payload)["data"] == {
            "job_id": job.id,
            "name": "nightly",
            "expected_by": "2026-05-18T12:00:00+00:00",
            "last_run_at": None,
            "last_run_ok": False,
            "scheduler_running": False,
        }

    def test_says_what_is_known(self, books: Any, look: Any) -> None:
        books.job(expect_by=NOON, policy=DAY, last_run_at=NOON - timedelta(days=2), timezone="Europe/Berlin")
        look(NOON + timedelta(hours=2))
        (notice,) = books.notices()
        assert notice.recipient == "admin@example.org"
        lines = [line.split(":", 1) for line in notice.body.splitlines() if line]
        facts = {name: value.strip() for name, value in lines}
        assert facts["Expected by"] == "2026-05-18T14:00:00+02:00"
        assert facts["Late by"] == "2:00:00"
        assert facts["Last run"] == "2026-05-16T14:00:00+02:00, did not succeed"
        assert facts["Cron service"] == "it does not run"

    def test_a_cron_service_that_runs(self, books: Any) -> None:
        now = utc_now()
        books.job(expect_by=now, policy=DAY)
        heartbeat = Heartbeat(books.database, "cron", "f" * 32)
        heartbeat.start()
        with books.database.transaction() as session:
            raise_overdue(session, books.settings, now)
        heartbeat.stop()
        assert "Cron service" not in books.notices()[0].body

    def test_its_next_success_is_a_recovery(self, books: Any, look: Any) -> None:
        books.webhook("job.recovered")
        job = books.job(expect_by=NOON, policy=DAY)
        look()
        books.end(job, "failed")
        books.end(job, "succeeded")
        books.end(job, "succeeded")
        assert books.kinds() == ["overdue", "recovery"]
        (delivery,) = books.deliveries()
        assert json.loads(delivery.payload)["data"]["after"] == "overdue"

    def test_a_disabled_job_is_not_watched(self, books: Any, look: Any) -> None:
        job = books.job(expect_by=NOON, policy=DAY, enabled=False)
        look()
        assert books.notices() == []
        assert books.jobs.job(job.id).expect_by is None

    @pytest.mark.parametrize("why", ["paused", "maintenance", "owner disabled"])
    def test_what_stands_still_on_purpose_gets_its_time_anew(self, books: Any, look: Any, why: str) -> None:
        job = books.job(expect_by=NOON, policy=DAY, tags=",backup,")
        with books.database.transaction() as session:
            if why == "paused":
                session.add(Pause(owner="admin", paused_at=NOON - timedelta(hours=1)))
            elif why == "maintenance":
                begin, end = NOON - timedelta(hours=1), NOON + timedelta(hours=1)
                session.add(Maintenance(starts_at=begin, ends_at=end, tag="backup", created_at=begin))
            else:
                session.execute(update(User).values(status="disabled"))
        look()
        assert books.notices() == []
        assert books.jobs.job(job.id).expect_by == NOON + timedelta(hours=25)
        assert books.jobs.job(job.id).alarm == ""

    def test_a_pause_with_an_end(self, books: Any, look: Any) -> None:
        job = books.job(expect_by=NOON, policy=DAY)
        until = NOON + timedelta(days=3)
        with books.database.transaction() as session:
            session.add(Pause(owner="admin", paused_at=NOON - timedelta(hours=1), until=until))
        look()
        assert books.jobs.job(job.id).expect_by == until + timedelta(hours=25)

    def test_a_pause_until_the_end_of_time_concerns_nobody_else(self, books: Any, look: Any) -> None:
        books.jobs.owner("ann")
        paused = books.job(owner="ann", expect_by=NOON - timedelta(hours=1), policy={"expect_every": 366 * 86_400})
        books.job(expect_by=NOON, policy=DAY)
        with books.database.transaction() as session:
            pause(session, "ann", until=LATEST - timedelta(seconds=1), reason="")
        look(utc_now())
        assert books.kinds() == ["overdue"]
        assert books.jobs.job(paused.id).expect_by > utc_now() + timedelta(days=365)

    def test_jobs_that_are_resumed_get_their_time_anew(self, books: Any) -> None:
        now = utc_now()
        job, unwatched = books.job(expect_by=now, policy=DAY), books.job()
        with books.database.transaction() as session:
            pause(session, "admin", until=None, reason="")
        with books.database.transaction() as session:
            resume(session, "admin")
        assert books.jobs.job(job.id).expect_by >= now + timedelta(hours=25)
        assert books.jobs.job(unwatched.id).expect_by is None

    def test_a_pause_that_is_over(self, books: Any, look: Any) -> None:
        books.job(expect_by=NOON, policy=DAY)
        with books.database.transaction() as session:
            session.add(Pause(owner="admin", paused_at=NOON - timedelta(hours=3), until=NOON - timedelta(hours=1)))
        look()
        assert books.kinds() == ["overdue"]

    def test_without_an_address_the_alarm_shows(self, books: Any, look: Any) -> None:
        books.jobs.owner("ann", email="")
        books.job(owner="ann", expect_by=NOON, policy=DAY)
        look()
        assert [(notice.status, notice.error) for notice in books.notices()] == [("failed", NO_ADDRESS)]

    def test_is_not_withheld_in_a_storm(self, books: Any, mail_settings: Any, look: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=1)
        job = books.job(email_on_complete="job@example.org", expect_by=NOON, policy=DAY)
        books.end(job, "failed", "failed")
        look()
        assert books.notices(kind="overdue")[0].status == "pending"

    def test_several_that_watch_raise_one_alarm(self, books: Any) -> None:
        for _ in range(30):
            books.job(expect_by=NOON, policy=DAY)
        barrier = threading.Barrier(3)
        trouble: list[BaseException] = []

        def watch() -> None:
            database = Database(books.settings.database)
            barrier.wait()
            try:
                for _ in range(3):
                    with database.transaction() as session:
                        raise_overdue(session, books.settings, NOON)
            except BaseException as error:
                trouble.append(error)
            database.close()

        threads = [threading.Thread(target=watch) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert trouble == []
        assert len({notice.job_id for notice in books.notices()}) == len(books.notices()) == 30

    def test_a_success_just_before_is_not_overlooked(self, books: Any, look: Any) -> None:
        job = books.job(expect_by=NOON + timedelta(days=1), policy=DAY)
        assert look() == 0
        assert books.jobs.job(job.id).expect_by == NOON + timedelta(days=1)

    def test_the_soonest_comes_first(self, books: Any) -> None:
        books.job()
        books.job(expect_by=NOON + timedelta(days=2))
        books.job(expect_by=NOON + timedelta(days=1))
        with books.database.reading() as session:
            assert session.scalar(next_overdue()) == NOON + timedelta(days=1)


class TestUnusuallyLong:
    @pytest.fixture
    def notifier(self, books: Any, clock: Any) -> Notifier:
        return Notifier(books.settings, books.database, clock=clock)

    def running(self, books: Any, factor: float = 3.0, **values: Any) -> tuple[Any, int]:
        """A job whose runs take ten seconds, and a run that begins now."""
        policy = {"alert_duration_factor": factor} if factor else {}
        job = books.job(policy=policy, **values)
        for _ in range(5):
            books.run(job, status="succeeded", duration_ms=10_000)
        return job, books.run(job, status="running", started_at=utc_now())

    def test_is_told_once_while_it_runs(self, books: Any, notifier: Notifier, clock: Any) -> None:
        books.webhook("job.unusual")
        job, run_id = self.running(books)
        notifier.look_at_running()
        clock.forward(seconds=25)
        notifier.look_at_running()
        assert books.notices() == []
        clock.forward(seconds=10)
        notifier.look_at_running()
        notifier.look_at_running()
        (notice,) = books.notices()
        assert (notice.kind, notice.run_id, notice.recipient) == ("unusual", run_id, "admin@example.org")
        assert "has been running for 35 s, usually 10 s" in notice.subject
        (delivery,) = books.deliveries()
        data = json.loads(delivery.payload)["data"]
        assert (data["job_id"], data["run_id"], data["running"]) == (job.id, run_id, True)

    def test_is_not_told_again_when_it_ends(self, books: Any, notifier: Notifier, clock: Any, end_of: Any) -> None:
        job, run_id = self.running(books)
        clock.forward(seconds=60)
        notifier.look_at_running()
        begun = utc_now()
        books.record([end_of(job, run_id, started_at=begun - timedelta(seconds=60), finished_at=begun, seconds=60)])
        assert books.kinds() == ["unusual"]

    def test_another_process_tells_it_no_more(self, books: Any, notifier: Notifier, clock: Any) -> None:
        self.running(books)
        clock.forward(seconds=60)
        notifier.look_at_running()
        Notifier(books.settings, books.database, clock=clock).look_at_running()
        assert books.kinds() == ["unusual"]

    def test_nobody_asked(self, books: Any, notifier: Notifier, clock: Any) -> None:
        self.running(books, factor=0.0)
        clock.forward(days=1)
        notifier.look_at_running()
        assert books.kinds() == []

    @pytest.mark.parametrize("policy", [None, {"alert_duration_factor": 100.0}])
    def test_a_job_that_was_changed_meanwhile(self, books: Any, notifier: Notifier, clock: Any, policy: Any) -> None:
        job, _ = self.running(books)
        notifier.look_at_running()
        books.jobs.change(job.id, policy=policy)
        clock.forward(seconds=60)
        notifier.look_at_running()
        assert books.notices() == []
        clock.forward(seconds=1000)
        notifier.look_at_running()
        assert books.kinds() == (["unusual"] if policy else [])

    def test_a_run_that_ended_meanwhile(
        self, books: Any, notifier: Notifier, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, run_id = self.running(books)
        clock.forward(seconds=60)
        due = notifier._durations.due

        def end_meanwhile(*given: Any) -> Any:
            late = due(*given)
            with books.database.transaction() as session:
                session.execute(update(JobRun).where(JobRun.id == run_id).values(status="succeeded"))
            return late

        monkeypatch.setattr(notifier._durations, "due", end_meanwhile)
        notifier.look_at_running()
        assert books.kinds() == []


class TestNotifier:
    def test_mails_that_a_job_is_overdue(self, books: Any, sink: Any, start_notifier: Any, until: Any) -> None:
        job = books.job(expect_by=utc_now() + timedelta(seconds=0.3), policy={"expect_every": 60})
        start_notifier(smtp_port=sink.port)
        until(lambda: sink.mails)
        assert sink.parsed()[0]["Subject"].endswith("nightly is overdue")
        with books.database.reading() as session:
            assert session.scalar(select(CronJob.alarm).where(CronJob.id == job.id)) == "overdue"

    def test_goes_on_after_trouble(
        self, books: Any, sink: Any, start_notifier: Any, until: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsp.cron.notifier.TROUBLE_SECONDS", 0.05)
        stumbles = iter((LookupError(), LookupError()))
        look = Notifier.look

        def stumble(self: Notifier) -> None:
            for error in stumbles:
                raise error
            look(self)

        monkeypatch.setattr(Notifier, "look", stumble)
        books.job(expect_by=NOON, policy={"expect_every": 60})
        start_notifier(smtp_port=sink.port)
        until(lambda: sink.mails)

    def test_sends_mails_when_alarms_cannot_be_raised(
        self, books: Any, sink: Any, start_notifier: Any, until: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stumble(*_given: Any) -> int:
            raise LookupError

        monkeypatch.setattr("wsp.cron.watch.raise_overdue", stumble)
        books.put(books.job(expect_by=NOON, policy={"expect_every": 60}))
        start_notifier(smtp_port=sink.port)
        until(lambda: sink.mails)

    def test_without_a_mail_server_it_still_raises_alarms(self, books: Any, start_notifier: Any, until: Any) -> None:
        books.job(expect_by=NOON, policy={"expect_every": 60})
        start_notifier(smtp_host=None)
        until(books.notices)
        assert books.notices()[0].status == "failed"

    def test_does_not_carry_the_mail_library_until_there_is_a_mail(self) -> None:
        program = "import sys, wsp.cron.notifier; print('aiosmtplib' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "False"


class TestIdle:
    @pytest.mark.parametrize("store", ["sqlite"])
    def test_looks_at_indexes_alone(self, books: Any) -> None:
        """However many jobs, runs and mails there are, a look costs the same."""
        asked: list[tuple[str, Any]] = []

        def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
            asked.append((statement, parameters))

        engine = books.database.engine
        notifier = Notifier(books.settings, books.database)
        event.listen(engine, "before_cursor_execute", listen)
        notifier.look()
        notifier.look_at_running()
        event.remove(engine, "before_cursor_execute", listen)
        plans = []
        with books.database.reading() as session:
            for statement, parameters in asked:
                plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [row.detail for row in plan if "cron_" in row.detail]
        assert plans == [
            "SEARCH cron_jobs USING COVERING INDEX ix_cron_jobs_expect_by",
            "SEARCH cron_notices USING INDEX ix_cron_notices_unsent",
            "SEARCH cron_runs USING INDEX ix_cron_runs_open (status=?)",
            "SEARCH cron_jobs USING INTEGER PRIMARY KEY (rowid=?)",
        ]
