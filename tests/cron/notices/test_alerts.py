"""Which mails and events the ends of runs bring about."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.engine import Engine

from wsp.counters import stored
from wsp.cron.history.runs import kill_run
from wsp.cron.models import Notice
from wsp.cron.notices.alerts import kind_of_mail, on_ends, on_starts
from wsp.cron.notices.outbox import NO_ADDRESS, NO_SERVER
from wsp.cron.planning import queue
from wsp.cron.planning.rows import Claim
from wsp.webhooks.models import Delivery

HOUR = timedelta(hours=1)


class TestTheContractsTable:
    @pytest.mark.parametrize(
        ("address", "on_error", "status", "recipient"),
        [
            ("", False, "succeeded", None),
            ("", False, "failed", None),
            ("", True, "succeeded", None),
            ("", True, "failed", "admin@example.org"),
            ("", True, "lost", "admin@example.org"),
            ("", True, "timed_out", "admin@example.org"),
            ("", True, "killed", "admin@example.org"),
            ("", True, "skipped", None),
            ("job@example.org", False, "succeeded", "job@example.org"),
            ("job@example.org", False, "failed", "job@example.org"),
            ("job@example.org", True, "succeeded", "job@example.org"),
            ("job@example.org", True, "failed", "job@example.org"),
            ("job@example.org", True, "skipped", None),
        ],
    )
    def test_who_is_mailed(self, books: Any, address: str, on_error: bool, status: str, recipient: str | None) -> None:
        job = books.job(email_on_complete=address, email_on_error=on_error)
        (run_id,) = books.end(job, status)
        assert [notice.recipient for notice in books.notices()] == ([recipient] if recipient else [])
        for notice in books.notices():
            assert (notice.kind, notice.status, notice.run_id, notice.job_id) == ("run", "pending", run_id, job.id)

    def test_an_attempt_that_is_followed_by_another_sends_none(self, books: Any) -> None:
        job = books.job(email_on_complete="job@example.org", policy={"retries": 1})
        books.end(job, "failed", will_retry=True)
        assert books.notices() == []
        assert books.jobs.job(job.id).alarm == ""
        books.end(job, "failed")
        assert books.kinds() == ["run"]

    def test_an_owner_without_an_address_shows(self, books: Any) -> None:
        books.jobs.owner("ann", email="")
        books.end(books.job(owner="ann", email_on_error=True), "failed")
        (notice,) = books.notices()
        assert (notice.status, notice.error, notice.next_attempt_at) == ("failed", NO_ADDRESS, None)
        assert notice.finished_at is not None
        with books.jobs.database.reading() as session:
            assert [row.value for row in stored(session) if row.labels == 'status="failed"'] == [1]

    def test_without_a_mail_server_it_shows(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(smtp_host=None)
        books.end(books.job(email_on_error=True), "failed")
        (notice,) = books.notices()
        assert (notice.status, notice.error, notice.next_attempt_at) == ("failed", NO_SERVER, None)

    def test_times_are_those_of_the_jobs_zone(self, books: Any) -> None:
        books.end(books.job(email_on_error=True, timezone="Europe/Berlin"), "failed")
        assert "2026-05-18T14:00:00+02:00" in books.notices()[0].body
        books.end(books.job(email_on_error=True, timezone="No/Where"), "failed")
        assert "2026-05-18T19:00:00+07:00" in books.notices()[1].body

    def test_a_job_that_was_deleted_meanwhile(self, books: Any, end_of: Any) -> None:
        kept, gone = (books.job(email_on_complete="job@example.org") for _ in range(2))
        books.webhook()
        books.jobs.delete(gone.id)
        books.record([end_of(gone), end_of(kept)])
        assert [notice.job_id for notice in books.notices()] == [kept.id]
        assert len(books.deliveries()) == 2


class TestAlerts:
    def test_the_first_failure(self, books: Any) -> None:
        job = books.job(email_on_error=True, policy={"alert_on": ("first_failure",)})
        books.end(job, "succeeded")
        books.end(job, "failed")
        books.end(job, "failed")
        books.end(job, "succeeded")
        books.end(job, "timed_out")
        assert [(notice.kind, notice.recipient) for notice in books.notices()] == [("failure", "admin@example.org")] * 2

    def test_every_third(self, books: Any) -> None:
        job = books.job(email_on_complete="job@example.org", policy={"alert_on": ("nth_failure",), "alert_every": 3})
        runs = [books.end(job, "failed")[0] for _ in range(7)]
        assert [notice.run_id for notice in books.notices()] == [runs[2], runs[5]]
        assert books.notices()[1].subject.endswith("failed with exit code 3, 6 times in a row")
        assert {notice.recipient for notice in books.notices()} == {"job@example.org"}

    def test_recovery(self, books: Any) -> None:
        job = books.job(policy={"alert_on": ("recovery",)})
        for status in ("succeeded", "failed", "failed", "skipped", "succeeded", "succeeded"):
            books.end(job, status)
        (notice,) = books.notices()
        assert (notice.kind, notice.recipient) == ("recovery", "admin@example.org")
        assert notice.subject.endswith("nightly works again")

    def test_counts_ends_that_are_recorded_together(self, books: Any) -> None:
        job = books.job(policy={"alert_on": ("first_failure", "recovery", "nth_failure"), "alert_every": 2})
        books.end(job, "failed", "failed", "failed", "succeeded", "failed")
        assert books.kinds() == ["failure", "failure", "recovery", "failure"]
        books.end(job, "failed", "failed", "failed")
        assert books.kinds()[4:] == ["failure", "failure"]

    @pytest.mark.parametrize(("before", "alerts"), [(1, 0), (2, 1), (4, 0), (5, 1)])
    def test_counts_a_failure_that_is_recorded_with_the_success_after_it(
        self, books: Any, before: int, alerts: int
    ) -> None:
        job = books.job(policy={"alert_on": ("nth_failure",), "alert_every": 3})
        for _ in range(before):
            books.end(job, "failed")
        told = len(books.kinds())
        books.end(job, "failed", "succeeded")
        assert len(books.kinds()) == told + alerts

    @pytest.mark.parametrize("wanted", ["first_failure", "nth_failure", "recovery"])
    def test_replace_the_mail_of_each_run(self, job_of: Any, wanted: str) -> None:
        job = job_of(email_on_complete="a@b.c", email_on_error=True, policy={"alert_on": (wanted,)})
        assert kind_of_mail(job, ok=True, failures=0, alarm="") is None
        assert kind_of_mail(job, ok=False, failures=2, alarm="failing") is None

    def test_the_end_of_an_alarm_that_was_raised_is_always_told(self, books: Any, jobs: Any) -> None:
        job = books.job()
        with books.database.transaction() as session:
            session.get_one(type(jobs.job(job.id)), job.id).alarm = "overdue"
        books.end(job, "failed")
        assert books.kinds() == []
        books.end(job, "succeeded")
        books.end(job, "succeeded")
        assert books.kinds() == ["recovery"]
        assert books.jobs.job(job.id).alarm == ""


class TestChangedMeanwhile:
    """What a job says when its run ends is what counts, not what it said when the run began."""

    def test_the_address(self, books: Any) -> None:
        job = books.job(email_on_complete="gone@example.org")
        books.jobs.change(job.id, email_on_complete="new@example.org", name="renamed")
        books.end(job, "failed")
        (notice,) = books.notices()
        assert notice.recipient == "new@example.org"
        assert "cron job renamed failed" in notice.subject

    def test_nobody_is_to_be_mailed_any_more(self, books: Any) -> None:
        job = books.job(email_on_complete="gone@example.org", email_on_error=True)
        books.jobs.change(job.id, email_on_complete="", email_on_error=False)
        books.end(job, "failed")
        assert books.notices() == []

    def test_the_alerts(self, books: Any) -> None:
        job = books.job(policy={"alert_on": ("recovery",)})
        books.jobs.change(job.id, policy={"alert_on": ["first_failure"]})
        books.end(job, "failed")
        assert books.kinds() == ["failure"]


class TestEndsInTheQueue:
    """Runs that end before they were started, as the scheduler and the API tell of them."""

    def claim(self, books: Any) -> None:
        claim = Claim(service_id="planner", node="here", boot_id="boot", running_since=books.now)
        with books.database.transaction() as session:
            batch = queue.claim_queued(session, books.now, books.settings.zone, claim)
            on_ends(session, books.settings, batch.ends, books.now)

    def kill(self, books: Any, job: Any) -> None:
        run_id = books.run(job, status="queued", start_at=books.now, trigger="manual")
        with books.database.transaction() as session:
            kill_run(session, books.settings, None, job.id, run_id, by="ann", now=books.now)

    def test_a_retry_that_is_skipped_leaves_a_failure(self, books: Any) -> None:
        job = books.job(email_on_error=True, enabled=False, policy={"retries": 1})
        books.webhook("run.*")
        books.end(job, "failed", will_retry=True)
        books.run(job, status="queued", start_at=books.now, trigger="retry", attempt=2, cause_run_id=1)
        self.claim(books)
        (notice,) = books.notices()
        assert (notice.kind, notice.recipient, notice.run_id) == ("run", "admin@example.org", 2)
        assert notice.subject.endswith("nightly failed and was not tried again")
        assert "run 1, which failed" in notice.body
        assert "The job was disabled before it could start" in notice.body
        row = books.jobs.job(job.id)
        assert (row.alarm, row.failures_in_row) == ("failing", 1)
        assert [delivery.event for delivery in books.deliveries()] == ["run.failed", "run.skipped"]

    def test_a_retry_that_is_skipped_counts_as_one_failure(self, books: Any) -> None:
        job = books.job(policy={"retries": 1, "alert_on": ("first_failure", "recovery")})
        books.end(job, "failed", will_retry=True)
        books.run(job, status="queued", start_at=books.now, trigger="retry", attempt=2, cause_run_id=1)
        books.jobs.pause()
        self.claim(books)
        books.end(job, "failed")
        books.end(job, "succeeded")
        assert books.kinds() == ["failure", "recovery"]

    def test_a_tick_that_is_skipped_is_none(self, books: Any) -> None:
        job = books.job(email_on_complete="job@example.org", enabled=False)
        books.run(job, status="queued", start_at=books.now)
        self.claim(books)
        assert (books.notices(), books.jobs.job(job.id).failures_in_row) == ([], 0)

    def test_each_one_that_is_killed_counts(self, books: Any) -> None:
        job = books.job(policy={"alert_on": ("first_failure", "nth_failure"), "alert_every": 3})
        for _ in range(4):
            self.kill(books, job)
        assert books.kinds() == ["failure", "failure"]
        assert books.jobs.job(job.id).failures_in_row == 4
        books.end(job, "failed", "failed")
        assert books.notices()[-1].subject.endswith("6 times in a row")


class TestStorm:
    def test_mails_beyond_the_limit_are_withheld_and_summed_up(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=3)
        job, quiet = (books.job(email_on_complete="job@example.org") for _ in range(2))
        books.end(job, "failed", "succeeded")
        books.end(job, "failed", "failed", "succeeded", "failed")
        books.end(quiet, "failed")
        notices = books.notices(job_id=job.id)
        assert [(notice.kind, notice.status) for notice in notices] == [
            *[("run", "pending")] * 3,
            ("run", "withheld"),
            ("summary", "pending"),
            *[("run", "withheld")] * 2,
        ]
        summary = notices[4]
        assert summary.next_attempt_at == summary.due_at == books.now + HOUR
        assert [notice.status for notice in books.notices(job_id=quiet.id)] == ["pending"]

    def test_begins_anew_after_an_hour(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=2)
        job = books.job(email_on_complete="job@example.org")
        for minutes in (0, 10, 20, 59, 70, 81, 82, 83):
            books.end(job, "failed", now=books.now + timedelta(minutes=minutes))
        assert [notice.status for notice in books.notices(kind="run")] == [
            *("pending", "pending", "withheld", "withheld", "withheld"),
            *("pending", "pending", "withheld"),
        ]
        assert len(books.notices(kind="summary")) == 2

    def test_what_nobody_can_get_is_limited_too(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=3)
        books.jobs.owner("ann", email="")
        job = books.job(owner="ann", email_on_error=True)
        books.end(job, *["failed"] * 2)
        books.end(job, *["failed"] * 5)
        assert [notice.status for notice in books.notices()] == ["failed"] * 3 + ["withheld"] * 4

    def test_keeps_what_a_mail_says_only_while_it_is_to_be_sent(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(smtp_host=None)
        books.end(books.job(email_on_complete="job@example.org"), "failed")
        assert books.notices()[0].body == ""

    def test_no_limit(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=0)
        books.end(books.job(email_on_complete="job@example.org"), *["failed"] * 50)
        assert {notice.status for notice in books.notices()} == {"pending"}

    def test_without_a_mail_server_there_is_no_summary(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=2, smtp_host=None)
        books.end(books.job(email_on_complete="job@example.org"), *["failed"] * 4)
        assert [notice.status for notice in books.notices()] == ["failed", "failed", "withheld", "withheld"]

    def test_what_is_withheld_has_no_body(self, books: Any, mail_settings: Any) -> None:
        books.settings = mail_settings(cron_mail_limit=1)
        books.end(books.job(email_on_complete="job@example.org"), *["failed"] * 3)
        assert {notice.body for notice in books.notices(status="withheld")} == {""}


class TestUnusual:
    def history(self, books: Any, job: Any, seconds: float = 10.0, runs: int = 5) -> None:
        for _ in range(runs):
            books.run(job, status="succeeded", duration_ms=round(seconds * 1000))

    @pytest.mark.parametrize(("seconds", "kinds"), [(31, ["unusual"]), (29, []), (3.2, ["unusual"]), (3.5, [])])
    def test_much_longer_or_shorter(self, books: Any, seconds: float, kinds: list[str]) -> None:
        books.webhook("job.unusual")
        job = books.job(policy={"alert_duration_factor": 3.0})
        self.history(books, job)
        (run_id,) = books.end(job, "succeeded", seconds=seconds)
        assert books.kinds() == kinds
        events = [json.loads(delivery.payload)["data"] for delivery in books.deliveries()]
        assert [(data["run_id"], data["usual_ms"], data["running"]) for data in events] == [
            (run_id, 10_000, False) for _ in kinds
        ]

    def test_too_few_runs_tell_nothing(self, books: Any) -> None:
        job = books.job(policy={"alert_duration_factor": 3.0})
        self.history(books, job, runs=4)
        self.run_of_another_outcome(books, job)
        books.end(job, "succeeded", seconds=100)
        assert books.kinds() == []

    def run_of_another_outcome(self, books: Any, job: Any) -> None:
        books.run(job, status="failed", duration_ms=10_000)

    def test_a_second_concerns_nobody(self, books: Any) -> None:
        job = books.job(policy={"alert_duration_factor": 3.0})
        self.history(books, job, seconds=0.1)
        books.end(job, "succeeded", seconds=1.05)
        assert books.kinds() == []
        books.end(job, "succeeded", seconds=1.2)
        assert books.kinds() == ["unusual"]

    def test_only_the_newest_runs_count(self, books: Any) -> None:
        job = books.job(policy={"alert_duration_factor": 3.0})
        self.history(books, job, seconds=1000, runs=30)
        self.history(books, job, seconds=10, runs=20)
        books.end(job, "succeeded", seconds=40)
        assert books.kinds() == ["unusual"]

    def test_one_mail_a_run(self, books: Any) -> None:
        job = books.job(email_on_complete="job@example.org", policy={"alert_duration_factor": 3.0})
        self.history(books, job)
        books.end(job, "succeeded", seconds=75)
        (notice,) = books.notices()
        assert notice.kind == "run"
        assert notice.subject.endswith("took 75 s, usually 10 s")

    def test_nobody_asked(self, books: Any) -> None:
        job = books.job()
        self.history(books, job)
        books.end(job, "succeeded", seconds=1000)
        assert books.kinds() == []


class TestEvents:
    def test_of_a_run(self, books: Any, end_of: Any) -> None:
        books.webhook("run.*")
        job = books.job(name="backup")
        run_id = books.run(job, status="failed")
        end = end_of(job, run_id, "failed", will_retry=True, output="x" * 2000, run={"attempt": 2, "cause_run_id": 1})
        with books.database.transaction() as session:
            on_starts(session, books.settings, [end.run], books.now)
        books.record([end])
        started, failed = books.deliveries()
        assert (started.event, failed.event) == ("run.started", "run.failed")
        assert json.loads(started.payload)["data"] == {
            "run_id": run_id,
            "job_id": job.id,
            "name": "backup",
            "trigger": "schedule",
            "attempt": 2,
            "cause_run_id": 1,
            "scheduled_for": "2026-05-18T12:00:00+00:00",
            "started_at": "2026-05-18T12:00:00+00:00",
        }
        assert json.loads(failed.payload)["data"] == {
            "run_id": run_id,
            "job_id": job.id,
            "name": "backup",
            "trigger": "schedule",
            "attempt": 2,
            "cause_run_id": 1,
            "scheduled_for": "2026-05-18T12:00:00+00:00",
            "status": "failed",
            "reason": "",
            "exit_code": 3,
            "started_at": "2026-05-18T12:00:00+00:00",
            "finished_at": "2026-05-18T12:00:01+00:00",
            "duration_ms": 1000,
            "will_retry": True,
            "output": "x" * 1000,
        }

    @pytest.mark.parametrize("status", ["succeeded", "failed", "timed_out", "killed", "lost", "skipped"])
    def test_every_outcome_has_one(self, books: Any, status: str) -> None:
        books.webhook("run.*")
        books.end(books.job(), status)
        assert [delivery.event for delivery in books.deliveries()] == [f"run.{status}"]

    def test_of_a_recovery(self, books: Any) -> None:
        books.webhook("job.*")
        job = books.job()
        books.end(job, "succeeded", "failed", "failed")
        (run_id,) = books.end(job, "succeeded")
        books.end(job, "succeeded")
        (delivery,) = books.deliveries()
        assert delivery.event == "job.recovered"
        data = json.loads(delivery.payload)["data"]
        assert data == {"job_id": job.id, "name": "nightly", "run_id": run_id, "after": "failing"}

    def test_only_the_owners_webhooks_are_told(self, books: Any) -> None:
        job = books.job()
        books.jobs.owner("ann")
        books.webhook("*", owner="ann")
        books.end(job, "failed")
        assert books.deliveries() == []

    def test_nothing_is_told_of_what_was_undone(self, books: Any, end_of: Any) -> None:
        books.webhook()
        job = books.job(email_on_complete="job@example.org")
        end = end_of(job, books.run(job))

        def write_and_break_off() -> None:
            with books.database.transaction() as session:
                on_ends(session, books.settings, [end], books.now)
                raise ConnectionError

        with pytest.raises(ConnectionError):
            write_and_break_off()
        assert (books.deliveries(), books.notices()) == ([], [])


class TestCost:
    def statements(self, books: Any, ends: list[Any]) -> list[str]:
        asked: list[str] = []

        def listen(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if not statement.startswith(("BEGIN", "UPDATE cron_jobs SET failures", "NOTIFY")):
                asked.append(statement)

        engine: Engine = books.database.engine
        event.listen(engine, "before_cursor_execute", listen)
        books.record(ends)
        event.remove(engine, "before_cursor_execute", listen)
        return asked

    def test_two_questions_a_batch_when_nobody_wants_to_know(self, books: Any, end_of: Any) -> None:
        jobs = [books.job() for _ in range(10)]
        assert len(self.statements(books, [end_of(job) for job in jobs for _ in range(10)])) == 2

    def test_a_bounded_number_when_everybody_does(self, books: Any, end_of: Any) -> None:
        books.webhook()
        jobs = [books.job(email_on_complete="job@example.org") for _ in range(10)]
        ends = [end_of(job, status="failed") for job in jobs for _ in range(10)]
        assert len(self.statements(books, ends)) <= 6
        with books.database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Notice)) == 100
            assert session.scalar(select(func.count()).select_from(Delivery)) == 100
