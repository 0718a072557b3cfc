"""Who takes a delivery, when, and what becomes of it."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from wsp.database import Database, utc_now
from wsp.webhooks import queue, service
from wsp.webhooks.models import Delivery
from wsp.webhooks.queue import Job, Outcome, next_attempt


def claim(database: Database, now: datetime, full: frozenset[str] = frozenset()) -> Job | None:
    with database.transaction() as session:
        return queue.claim(session, now, full)


def record(database: Database, job: Job, outcome: Outcome, now: datetime) -> None:
    with database.transaction() as session:
        queue.record(session, job, outcome, now, jitter=0)


class TestNextAttempt:
    def test_is_later_every_time_and_then_never(self) -> None:
        now = utc_now()
        pauses = [(next_attempt(attempts, now, 0) or now) - now for attempts in range(1, 8)]
        assert [pause.total_seconds() for pause in pauses] == [10, 60, 300, 1800, 7200, 21600, 0]
        assert next_attempt(7, now, 0) is None

    def test_is_spread(self) -> None:
        now = utc_now()
        assert next_attempt(1, now, 1) == now + timedelta(seconds=12)


class TestClaim:
    def test_takes_what_has_been_due_for_longest(self, database: Database, ann: Any) -> None:
        ann.webhook()
        ann.emit("login.failed", n=1)
        ann.emit("upload.failed", n=2)
        now = utc_now()
        first, second = claim(database, now), claim(database, now)
        assert first is not None
        assert second is not None
        assert (first.event, second.event, first.attempts) == ("login.failed", "upload.failed", 1)
        assert (first.url, first.secret, first.stopped) == ("https://example.com/", "whsec_test", "")
        assert claim(database, now) is None

    def test_takes_nothing_before_it_is_due(self, database: Database, ann: Any) -> None:
        before = utc_now()
        ann.webhook()
        ann.emit()
        assert claim(database, before) is None

    def test_is_repeated_when_its_sender_died(self, database: Database, ann: Any) -> None:
        ann.webhook()
        ann.emit()
        now = utc_now()
        first = claim(database, now)
        assert claim(database, now + timedelta(seconds=queue.LEASE_SECONDS - 1)) is None
        again = claim(database, now + timedelta(seconds=queue.LEASE_SECONDS))
        assert first is not None
        assert again is not None
        assert (again.delivery_id, again.attempts) == (first.delivery_id, 2)
        # The first was only slow, and comes too late: the delivery is somebody else's now.
        record(database, first, Outcome(None, "late"), now)
        assert ann.deliveries()[0].error == ""

    def test_passes_over_webhooks_that_are_full(self, database: Database, ann: Any) -> None:
        full, other = ann.webhook(events=["login.failed"]), ann.webhook(events=["upload.failed"])
        for _ in range(queue.CANDIDATES + 1):
            ann.emit("login.failed")
        ann.emit("upload.failed")
        job = claim(database, utc_now(), frozenset({full}))
        assert job is not None
        assert job.webhook_id == other
        with database.reading() as session:
            assert queue.earliest(session, {full, other}) is None
            assert queue.earliest(session, {other}) == ann.deliveries()[0].next_attempt_at

    @pytest.mark.parametrize("what", ["owner", "webhook"])
    def test_says_what_must_not_be_sent(self, database: Database, ann: Any, what: str) -> None:
        webhook = ann.webhook()
        ann.emit()
        if what == "owner":
            ann.disable()
        else:
            ann.change(webhook, enabled=False)
        job = claim(database, utc_now())
        assert job is not None
        assert "disabled" in job.stopped

    def test_sends_a_test_to_a_disabled_webhook(self, database: Database, ann: Any) -> None:
        webhook = ann.webhook(enabled=False)
        with database.transaction() as session:
            service.send_test(session, "ann", webhook)
        job = claim(database, utc_now())
        assert job is not None
        assert (job.event, job.stopped) == ("ping", "")

    def test_gives_each_delivery_to_one_of_many(self, database: Database, ann: Any) -> None:
        ann.webhook()
        for _ in range(60):
            ann.emit()
        now, taken = utc_now(), []
        start = threading.Barrier(4)

        def take() -> None:
            own = Database(database.url.render_as_string(hide_password=False))
            start.wait()
            while (job := claim(own, now)) is not None:
                taken.append(job.delivery_id)
            own.close()

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [delivery.id for delivery in ann.deliveries()]


class TestRecord:
    @pytest.fixture
    def job(self, database: Database, ann: Any) -> Job:
        ann.webhook()
        ann.emit()
        taken = claim(database, utc_now())
        assert taken is not None
        return taken

    def test_ends_what_was_delivered(self, database: Database, ann: Any, job: Job) -> None:
        now = utc_now()
        record(database, job, Outcome(200), now)
        (delivery,) = ann.deliveries()
        assert (delivery.status, delivery.attempts, delivery.response_status) == ("delivered", 1, 200)
        assert (delivery.next_attempt_at, delivery.finished_at) == (None, now)

    def test_has_what_failed_tried_again(self, database: Database, ann: Any, job: Job) -> None:
        now = utc_now()
        record(database, job, Outcome(500, "x" * 1000), now)
        (delivery,) = ann.deliveries()
        assert (delivery.status, delivery.response_status, delivery.error) == ("pending", 500, "x" * 300)
        assert (delivery.next_attempt_at, delivery.finished_at) == (now + timedelta(seconds=10), None)

    def test_gives_up_after_the_last_attempt(self, database: Database, ann: Any, job: Job) -> None:
        now = utc_now()
        record(database, job, Outcome(None, "no"), now)
        for _ in queue.RETRY_SECONDS:
            now += timedelta(days=1)
            again = claim(database, now)
            assert again is not None
            record(database, again, Outcome(None, "no"), now)
        (delivery,) = ann.deliveries()
        assert (delivery.status, delivery.attempts) == ("failed", len(queue.RETRY_SECONDS) + 1)
        assert (delivery.next_attempt_at, delivery.finished_at) == (None, now)
        assert claim(database, now + timedelta(days=365)) is None


class TestPrune:
    def test_removes_what_ended_long_ago(
        self, database: Database, make_owner: Callable[..., Any], ann: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "PRUNED_AT_ONCE", 2)
        ann.webhook()
        now = utc_now()
        for days in (1, 20, 20, 20, None):
            ann.emit()
            if days is not None:
                ended = {"status": "delivered", "next_attempt_at": None, "finished_at": now - timedelta(days=days)}
                with database.transaction() as session:
                    session.execute(update(Delivery).where(Delivery.status == "pending").values(**ended))
        for expected in (2, 1, 0):
            with database.transaction() as session:
                assert queue.prune(session, now - timedelta(days=14)) == expected
        assert [delivery.status for delivery in ann.deliveries()] == ["delivered", "pending"]


class TestCap:
    def test_gives_up_the_oldest_of_a_webhook_that_has_too_many(
        self, database: Database, ann: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "MAX_PENDING", 3)
        ann.webhook(events=["login.failed"])
        ann.webhook(events=["upload.failed"])
        for _ in range(5):
            ann.emit("login.failed")
        for _ in range(3):
            ann.emit("upload.failed")
        with database.transaction() as session:
            assert queue.cap(session, utc_now()) == 2
            assert queue.cap(session, utc_now()) == 0
        logins = ann.deliveries(event="login.failed")
        assert [delivery.status for delivery in logins] == ["failed"] * 2 + ["pending"] * 3
        assert logins[0].error == "Given up: more than 3 deliveries of this webhook waited"
        assert logins[0].finished_at is not None
        assert logins[0].next_attempt_at is None
        assert {delivery.status for delivery in ann.deliveries(event="upload.failed")} == {"pending"}

    def test_one_that_was_under_way_stays_given_up(
        self, database: Database, ann: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "MAX_PENDING", 1)
        ann.webhook()
        ann.emit()
        ann.emit()
        now = utc_now()
        job = claim(database, now)
        assert job is not None
        with database.transaction() as session:
            assert queue.cap(session, now) == 1
        record(database, job, Outcome(200), now)
        assert [delivery.status for delivery in ann.deliveries()] == ["failed", "pending"]
