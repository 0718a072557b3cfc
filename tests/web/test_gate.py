"""The gate: bounds and counts, without a server."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from wsp.web.gate import Gate, RateLimit
from wsp.web.metrics import RequestCounts


class TestRateLimit:
    def test_counts_down_within_a_window(self) -> None:
        limit = RateLimit(2)
        assert [limit.count(b"ann", 60.0)[0] for _ in range(3)] == [1, 0, -1]

    def test_callers_are_counted_apart(self) -> None:
        limit = RateLimit(1)
        assert limit.count(b"ann", 60.0)[0] == 0
        assert limit.count(b"bob", 60.0)[0] == 0

    def test_the_next_window_begins_anew(self) -> None:
        limit = RateLimit(1)
        assert limit.count(b"ann", 119.9) == (0, 120)
        assert limit.count(b"ann", 120.0) == (0, 180)


def call(app: Any, *chunks: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> tuple[int, Any]:
    """Send one request through an ASGI application. Returns the status and the decoded body."""
    sent: list[Message] = []
    left = [{"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)} for i, c in enumerate(chunks)]

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/api/v1/x", "headers": headers or [], "client": None}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent[1:]))


async def read_everything(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads its body to the end."""
    while (await receive()).get("more_body"):
        continue
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'"read"'})


class TestBody:
    def test_up_to_the_bound_passes(self) -> None:
        gate = Gate(read_everything, rate_limit=0, max_body_bytes=10, requests=RequestCounts())
        assert call(gate, b"12345", b"67890") == (200, "read")

    def test_a_length_beyond_the_bound_is_refused(self) -> None:
        gate = Gate(read_everything, rate_limit=0, max_body_bytes=10, requests=RequestCounts())
        status, body = call(gate, b"x" * 11, headers=[(b"content-length", b"11")])
        assert (status, body["code"]) == (413, "PAYLOAD_TOO_LARGE")

    def test_more_than_was_announced_is_refused(self) -> None:
        gate = Gate(read_everything, rate_limit=0, max_body_bytes=10, requests=RequestCounts())
        assert call(gate, b"x" * 6, b"x" * 6, b"x", headers=[(b"content-length", b"1")])[0] == 413


class TestFailure:
    def test_of_anything_is_a_500_whose_id_is_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("secret of the machine")

        status, body = call(Gate(broken, rate_limit=0, max_body_bytes=10, requests=RequestCounts()), b"")
        assert status == 500
        assert list(body) == ["success", "code", "error", "message", "status", "request_id"]
        assert "secret" not in json.dumps(body)
        assert body["request_id"] in caplog.text
        assert "secret of the machine" in caplog.text
