"""Events are written down in the transaction in which they happen."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.webhooks.events import EVENTS, known, matches
from wsp.webhooks.models import Delivery, Webhook
from wsp.webhooks.service import emit


def add_owner(database: Database, name: str = "ann", status: str = "active") -> str:
    now = utc_now()
    with database.transaction() as session:
        session.add(User(username=name, role="user", status=status, created_at=now, updated_at=now))
    return name


def add_webhook(database: Database, owner: str, webhook_id: str = "w1", **columns: Any) -> str:
    now = utc_now()
    given = {"url": "https://example.com/", "events": ["*"], "secret": "whsec_x"} | columns
    with database.transaction() as session:
        session.add(Webhook(id=webhook_id, owner=owner, created_at=now, updated_at=now, **given))
    return webhook_id


def deliveries(database: Database) -> list[Delivery]:
    with database.reading() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.webhook_id)))


class TestEmit:
    def test_writes_a_delivery_for_each_webhook_that_wants_the_event(self, database: Database) -> None:
        ann, bob = add_owner(database), add_owner(database, "bob")
        add_webhook(database, ann, "exact", events=["login.failed", "upload.completed"])
        add_webhook(database, ann, "area", events=["upload.*"])
        add_webhook(database, ann, "other", events=["account.*"])
        add_webhook(database, ann, "off", enabled=False)
        add_webhook(database, bob, "bobs")
        with database.transaction() as session:
            assert emit(session, ann, "upload.completed", {"path": "/ü.txt", "bytes": 3}) == 2
        written = deliveries(database)
        assert [delivery.webhook_id for delivery in written] == ["area", "exact"]
        assert {delivery.status for delivery in written} == {"pending"}
        assert written[0].payload == written[1].payload
        body = json.loads(written[0].payload)
        assert list(body) == ["id", "event", "created_at", "data"]
        assert body["data"] == {"path": "/ü.txt", "bytes": 3}
        assert body["id"] == written[0].event_id
        assert body["created_at"].endswith("+00:00")

    def test_writes_nothing_when_the_transaction_fails(self, database: Database) -> None:
        add_webhook(database, add_owner(database))
        with suppress(RuntimeError), database.transaction() as session:
            assert emit(session, "ann", "login.failed", {}) == 1
            raise RuntimeError
        assert deliveries(database) == []

    def test_writes_nothing_for_a_disabled_owner(self, database: Database) -> None:
        add_webhook(database, add_owner(database, status="disabled"))
        with database.transaction() as session:
            assert emit(session, "ann", "login.failed", {}) == 0

    def test_refuses_an_event_that_does_not_exist(self, database: Database) -> None:
        with database.transaction() as session, pytest.raises(ValueError, match=r"upload\.complete"):
            emit(session, "ann", "upload.complete", {})

    def test_is_not_undone_by_a_webhook_that_is_deleted_at_that_moment(self, database: Database) -> None:
        add_webhook(database, add_owner(database))

        def remove() -> None:
            with database.transaction() as session:
                session.execute(delete(Webhook))

        remover = threading.Thread(target=remove)
        with database.transaction() as session:
            session.scalar(select(func.count()).select_from(Webhook))
            assert emit(session, "ann", "login.failed", {}) == 1
            remover.start()
            remover.join(0.2)
            assert remover.is_alive()
        remover.join()
        assert deliveries(database) == []


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "event", "expected"),
        [
            ("*", "upload.completed", True),
            ("upload.*", "upload.completed", True),
            ("*.failed", "login.failed", True),
            ("upload.completed", "upload.completed", True),
            ("upload", "upload.completed", False),
            ("upload.*", "uploads.completed", False),
            ("uploadXcompleted", "upload.completed", False),
            ("login.failed*", "login.failed", True),
            ("*in.*ail*", "login.failed", True),
            ("*ail*in.*", "login.failed", False),
            ("login.*.failed", "login.failed", False),
        ],
    )
    def test_match_whole_names(self, pattern: str, event: str, expected: bool) -> None:
        assert matches(pattern, event) is expected

    @pytest.mark.parametrize("pattern", ["*" * 52 + "login.failed", "*".join("*upload.completee*")])
    def test_a_pattern_of_many_stars_takes_no_time(self, pattern: str) -> None:
        program = f"from wsp.webhooks.events import known; known({pattern!r})"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=10)

    def test_are_known_when_they_match_any_event(self) -> None:
        assert all(known(event) for event in EVENTS)
        assert known("account.*")
        assert not known("accounts.*")
