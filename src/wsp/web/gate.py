"""What every request passes first: a bound on its body, the rate limit, and a net under everything else."""

import asyncio
import hashlib
import logging
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsp.web.failures import failure, server_failure
from wsp.web.metrics import RequestCounts

PROBES = ("/healthz", "/readyz")  # load balancers must get their answer however much they ask
WINDOW_SECONDS = 60
DRAIN_BYTES = 64 * 2**20
DRAIN_SECONDS = 10
CONTENT_TYPE, EVENT_STREAM = b"content-type", b"text/event-stream"

access = logging.getLogger("wsp.access")


class RateLimit:
    """Counts requests in windows of a minute, by API key, or by address where there is none.

    The counts are those of this process. They are keyed by what the client presents, before it is looked up,
    so that guessing keys is no way around the limit of an address that has run out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._window = 0
        self._counts: dict[bytes, int] = {}

    def count(self, who: bytes, now: float) -> tuple[int, int]:
        """Count one request. Returns how many are left (negative: one too many), and when the window ends."""
        window = int(now // WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            self._counts.clear()
        used = self._counts.get(who, 0) + 1
        self._counts[who] = used
        return self.limit - used, (window + 1) * WINDOW_SECONDS


class BodyTooLarge(Exception):
    """The body is longer than it may be."""


class Gate:
    """The outermost ASGI application: nothing gets past it unanswered, unbounded or uncounted."""

    def __init__(self, app: ASGIApp, *, rate_limit: int, max_body_bytes: int, requests: RequestCounts) -> None:
        self._app = app
        self._requests = requests
        self._rate = RateLimit(rate_limit) if rate_limit else None
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(scope, receive, send, self._max_body)
        try:
            await self._pass(passage)
        except BodyTooLarge:
            await self._too_large(passage)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if passage.status:
                raise  # the answer is on its way already; the server can only break the connection
            await server_failure(error)(scope, receive, passage.send)
        finally:
            passage.log()
            self._requests.count(scope, passage.status, passage.seconds, endless=passage.endless)

    async def _pass(self, passage: "_Passage") -> None:
        scope = passage.scope
        if scope["method"] == "HEAD":
            # Answered like GET (RFC 9110, 9.3.2). The server below sends no content: its own scope still says HEAD.
            scope = {**scope, "method": "GET"}
        if self._rate is not None and scope["path"].rstrip("/") not in PROBES:
            left, resets = self._rate.count(_who(scope), time.time())
            passage.rate_headers = (
                (b"x-ratelimit-limit", b"%d" % self._rate.limit),
                (b"x-ratelimit-remaining", b"%d" % max(0, left)),
                (b"x-ratelimit-reset", b"%d" % resets),
            )
            if left < 0:
                wait = max(1, resets - int(time.time()))
                sentence = f"Too many requests, try again in {wait} seconds"
                await failure(429, sentence, headers={"Retry-After": str(wait)})(scope, passage.receive, passage.send)
                return
        if passage.announced > self._max_body:
            raise BodyTooLarge
        await self._app(scope, passage.receive, passage.send)

    async def _too_large(self, passage: "_Passage") -> None:
        sentence = f"The request body must be at most {self._max_body} bytes"
        # Many clients read the answer only when all is sent, so a moderate rest is read and thrown away; then the
        # connection is closed, since something longer is still coming.
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await passage.drain(DRAIN_BYTES)
        answer = failure(413, sentence, headers={"Connection": "close"})
        await answer(passage.scope, passage.receive, passage.send)


def _who(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            # Without the scheme, which may be written in any case: one key has one count.
            return hashlib.blake2b(value.partition(b" ")[2] or value, digest_size=16).digest()
    client = scope.get("client")
    return client[0].encode() if client else b""


class _Passage:
    """One request on its way through."""

    __slots__ = (
        *("_max_body", "_read", "_receive", "_send", "_started"),
        *("announced", "endless", "rate_headers", "scope", "status"),
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self.scope = scope
        self.rate_headers: tuple[tuple[bytes, bytes], ...] = ()
        self.status = 0
        self.endless = False
        self.announced = _content_length(scope)
        self._receive = receive
        self._send = send
        self._max_body = max_body
        self._read = 0
        self._started = time.perf_counter()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._max_body:
                raise BodyTooLarge
        return message

    async def drain(self, most: int) -> None:
        """Read what is left of the body, up to `most` bytes, and keep nothing of it."""
        read = 0
        while read < most:
            message = await self._receive()
            read += len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.endless = any(
                value.startswith(EVENT_STREAM) for name, value in message["headers"] if name == CONTENT_TYPE
            )
            message["headers"] = [*message["headers"], *self.rate_headers]
        await self._send(message)

    @property
    def seconds(self) -> float:
        """How long it has been here."""
        return time.perf_counter() - self._started

    def log(self) -> None:
        if access.isEnabledFor(logging.INFO):
            client = self.scope.get("client")
            access.info(
                "%s %s %s %d %.1f ms",
                client[0] if client else "-",
                self.scope["method"],
                self.scope["path"],
                self.status,
                self.seconds * 1000,
            )


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
