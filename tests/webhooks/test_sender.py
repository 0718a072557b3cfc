"""From an event to the target, with all that can go wrong on the way."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.database import Database
from wsp.settings import Settings
from wsp.version import store_version
from wsp.webhooks import exchange, queue, sender
from wsp.webhooks.events import EVENTS
from wsp.webhooks.sender import Sender
from wsp.webhooks.signature import sign

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"


class TestDocument:
    def test_names_every_event(self) -> None:
        document = DOCUMENT.read_text()
        assert [event for event in EVENTS if f"`{event}`" not in document] == []


class TestClose:
    def test_waits_for_a_thread_that_is_just_being_started(
        self, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is known and not started cannot be joined: that would be a RuntimeError."""
        known, go_on = threading.Event(), threading.Event()

        class Slow(threading.Thread):
            def start(self) -> None:
                if self.name == "webhook":
                    known.set()
                    assert go_on.wait(30)
                super().start()

        sending = Sender(settings, database, store_version(database))
        starter = threading.Thread(target=sending._spawn)
        monkeypatch.setattr(threading, "Thread", Slow)
        starter.start()
        assert known.wait(30)
        threading.Timer(0.2, go_on.set).start()
        asyncio.run(sending.close())
        starter.join()
        assert not any(thread.is_alive() for thread in sending._threads)


class TestSend:
    def test_delivers_an_event(self, ann: Any, target: Any, start_sender: Any, until: Any) -> None:
        start_sender()
        ann.webhook(target.url("/ok?key=1"))
        ann.emit("upload.completed", path="/ü.txt")
        (delivery,) = until(lambda: ann.deliveries(status="delivered"), "the delivery")
        assert (delivery.attempts, delivery.response_status, delivery.error) == (1, 204, "")
        (request,) = target.received
        assert request.body.decode() == delivery.payload
        assert json.loads(request.body)["data"] == {"path": "/ü.txt"}
        headers = request.headers
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Wsp-Event"] == "upload.completed"
        assert headers["X-Wsp-Delivery"] == str(delivery.id)
        assert headers["X-Wsp-Signature"] == sign("whsec_test", int(headers["X-Wsp-Timestamp"]), request.body)

    def test_delivers_what_was_there_before_it_started(
        self, ann: Any, target: Any, start_sender: Any, until: Any
    ) -> None:
        ann.webhook(target.url("/ok"))
        ann.emit()
        start_sender()
        until(lambda: ann.deliveries(status="delivered"), "the delivery")

    def test_is_signed_as_the_document_says(
        self, ann: Any, target: Any, start_sender: Any, until: Any, tmp_path: Path
    ) -> None:
        start_sender()
        ann.webhook(target.url("/ok"), secret="whsec_0123")
        ann.emit(note="• ü")
        (request,) = until(lambda: target.of("/ok"), "the request")
        (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        (tmp_path / "body").write_bytes(request.body)
        for secret, expected in (("whsec_0123", "True"), ("whsec_0124", "False")):
            program = f"""{snippet}
from pathlib import Path
headers = {dict(request.headers)!r}
print(is_genuine({secret!r}, headers, Path("body").read_bytes()))
headers["X-Wsp-Timestamp"] = str(int(headers["X-Wsp-Timestamp"]) - 3600)
print(is_genuine({secret!r}, headers, Path("body").read_bytes()))
"""
            ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
            assert ran.stdout.split() == [expected, "False"], ran.stderr

    @pytest.mark.parametrize(
        ("path", "status", "sentence"),
        [
            ("/500", 500, "The answer was 500: it is <b>broken</b>"),
            ("/302", 302, "The answer was 302; redirects are not followed"),
            ("/close", None, ""),
            ("/garbage", None, "The answer is not HTTP"),
        ],
    )
    def test_notes_what_went_wrong_and_when_it_is_tried_again(
        self, ann: Any, target: Any, start_sender: Any, until: Any, path: str, status: int | None, sentence: str
    ) -> None:
        start_sender()
        ann.webhook(target.url(path))
        ann.emit()

        def failed() -> Any:
            return [delivery for delivery in ann.deliveries() if delivery.error]

        (delivery,) = until(failed, "the failure")
        assert (delivery.status, delivery.attempts, delivery.response_status) == ("pending", 1, status)
        assert delivery.error.startswith(sentence)
        pause = (delivery.next_attempt_at - delivery.created_at).total_seconds()
        assert pause >= queue.RETRY_SECONDS[0]

    def test_tries_again_until_it_is_delivered(
        self, ann: Any, target: Any, start_sender: Any, until: Any, clock: Any
    ) -> None:
        start_sender()
        target.broken = True
        ann.webhook(target.url("/ok"))
        ann.emit()

        def waits(pause: float) -> bool:
            (delivery,) = ann.deliveries()
            return bool(pause * 0.9 < (delivery.next_attempt_at - clock()).total_seconds() < pause * 1.3)

        for attempts, pause in enumerate(queue.RETRY_SECONDS[:3], start=1):
            until(lambda pause=pause: waits(pause), f"attempt {attempts}")
            assert len(target.received) == attempts
            target.broken = attempts < 3
            clock.forward(seconds=pause * 1.3)
            ann.webhook(events=["login.failed"])  # a commit: it looks again, by the clock that was put forward
        (delivery,) = until(lambda: ann.deliveries(status="delivered"), "the delivery")
        assert (delivery.attempts, delivery.response_status, delivery.error) == (4, 204, "")
        bodies = {request.body for request in target.received}
        assert len(bodies) == 1
        assert len(target.received) == 4

    def test_sends_nothing_for_an_owner_who_was_disabled(
        self, ann: Any, target: Any, start_sender: Any, until: Any
    ) -> None:
        ann.webhook(target.url("/ok"))
        ann.emit()
        ann.disable()
        start_sender()
        (delivery,) = until(lambda: ann.deliveries(status="failed"), "the end")
        assert delivery.error == "Not sent: its owner is disabled"
        assert target.received == []

    def test_goes_to_no_private_address(self, ann: Any, target: Any, start_sender: Any, until: Any) -> None:
        # Made when private addresses were allowed, or by a name that has moved since.
        start_sender(webhook_allow_private=False)
        ann.webhook(target.url("/ok", "localhost"))
        ann.emit()
        (delivery,) = until(lambda: [d for d in ann.deliveries() if d.error], "the refusal")
        assert "not a public address" in delivery.error
        assert target.received == []

    def test_shares_the_work_with_other_senders(self, ann: Any, target: Any, start_sender: Any, until: Any) -> None:
        ann.webhook(target.url("/ok"))
        for _ in range(40):
            ann.emit()
        start_sender()
        start_sender()
        until(lambda: len(ann.deliveries(status="delivered")) == 40, "all deliveries")
        sent = [request.headers["X-Wsp-Delivery"] for request in target.received]
        assert sorted(map(int, sent)) == [delivery.id for delivery in ann.deliveries()]

    def test_does_not_wait_for_targets_that_hang(
        self, make_owner: Callable[..., Any], target: Any, start_sender: Any, until: Any
    ) -> None:
        start_sender()
        bob, ann = make_owner("bob"), make_owner("ann")
        for _ in range(sender.THREADS // sender.CONCURRENT_PER_WEBHOOK - 1):
            bob.webhook(target.url("/hang"))
        for _ in range(20):
            bob.emit()
        held = sender.THREADS - sender.CONCURRENT_PER_WEBHOOK
        until(lambda: len(target.of("/hang")) == held, "every hanging webhook has what it may have")
        ann.webhook(target.url("/ok"))
        for _ in range(10):
            ann.emit()
        # It would take longer than this test waits for the hanging ones to give up.
        until(lambda: len(ann.deliveries(status="delivered")) == 10, "the other owner's deliveries")
        assert len(target.of("/hang")) == held

    def test_leaves_room_beside_targets_that_keep_failing(
        self,
        make_owner: Callable[..., Any],
        target: Any,
        start_sender: Any,
        until: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(exchange, "WHOLE_SECONDS", 0.5)
        start_sender()
        bob, ann = make_owner("bob"), make_owner("ann")
        webhooks = [bob.webhook(target.url("/hang")) for _ in range(sender.THREADS)]
        bob.emit()
        until(lambda: len([d for d in bob.deliveries() if d.error]) == len(webhooks), "each has failed once")
        monkeypatch.setattr(exchange, "WHOLE_SECONDS", 25.0)
        seen = len(target.of("/hang"))
        for _ in range(5):
            bob.emit()
        until(lambda: len(target.of("/hang")) >= seen + sender.FAILING_THREADS, "half of the threads hang")
        ann.webhook(target.url("/ok"))
        ann.emit()
        until(lambda: ann.deliveries(status="delivered"), "the other owner's delivery")
        assert len(target.of("/hang")) <= seen + sender.FAILING_THREADS + 1

    def test_leaves_no_threads_behind(self, ann: Any, target: Any, start_sender: Any, until: Any) -> None:
        start_sender()
        ann.webhook(target.url("/ok"))
        for _ in range(20):
            ann.emit()
        until(lambda: len(ann.deliveries(status="delivered")) == 20, "all deliveries")
        until(lambda: not [t for t in threading.enumerate() if t.name == "webhook"], "the threads have ended")

    def test_removes_deliveries_that_ended_long_ago(
        self, ann: Any, target: Any, start_sender: Any, until: Any, clock: Any
    ) -> None:
        first = start_sender(webhook_keep_days=3)
        ann.webhook(target.url("/ok"))
        ann.emit()
        until(lambda: ann.deliveries(status="delivered"), "the delivery")
        assert first
        clock.forward(days=4)
        start_sender(webhook_keep_days=3)
        until(lambda: not ann.deliveries(), "the removal")
