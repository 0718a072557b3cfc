"""A run as a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError

from wsp.cron.history.output import NAMES, Decoder, Piece, RunOutput, after_gap, joined
from wsp.cron.history.watching import GONE, Watching
from wsp.cron.models import ENDED
from wsp.cron.runner.frames import GAP
from wsp.cron.schemas.runs import RunOut
from wsp.errors import WspError

RETRY_MILLISECONDS = 2000
HEARTBEAT_SECONDS = 15.0  # what is silent for longer is closed by proxies, by many after 60
RECHECK_SECONDS = 5.0  # how long somebody who may not any more still looks on
EVENT_BYTES = 64 * 1024
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is nginx's, and many others' by now

Load = Callable[[], tuple[RunOutput, RunOut]]
"""The output of the run, and the run as answers show it, as they are now. Blocks. Raises NotFound."""
Recheck = Callable[[], Awaitable[object]]
"""Raises WspError when the caller may not look on any more."""


async def events(
    watching: Watching, run_id: int, decoder: Decoder, load: Load, recheck: Recheck
) -> AsyncIterator[bytes]:
    """What is there from where the decoder is, what comes, and the end of the run.

    It ends early when the caller may not look on, when the run or the store is gone, and when the server stops.
    """
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    shown = seen = None
    checked = told = time.monotonic()
    with watching.watch(run_id) as watcher, suppress(WspError, SQLAlchemyError):
        output, run = await watching.on_thread(load)
        while not watching.ending.is_set():
            watcher.news.clear()
            if time.monotonic() - checked >= RECHECK_SECONDS:
                await recheck()
                checked = time.monotonic()
            if watcher.status is not None and watcher.status != seen:
                seen = watcher.status
                if seen == GONE:
                    return
                if seen != run.status:
                    output, run = await watching.on_thread(load)
            if run.status != shown and run.status not in ENDED:
                yield _event("status", {"status": run.status})
            shown = run.status
            pieces = await watching.on_thread(partial(output.following, decoder.place))
            for event in _output(pieces, decoder):
                yield event
            if pieces:
                told = time.monotonic()
                continue
            if run.status in ENDED:
                for stream, text in decoder.rest():
                    yield _text(stream, text, decoder)
                yield format_sse_event(event="end", data_str=run.model_dump_json())
                return
            try:
                await asyncio.wait_for(watcher.news.wait(), RECHECK_SECONDS)
            except TimeoutError:
                if time.monotonic() - told >= HEARTBEAT_SECONDS:
                    yield format_sse_event(comment="still there")
                    told = time.monotonic()


def _output(pieces: Sequence[Piece], decoder: Decoder) -> Iterator[bytes]:
    dropped = 0  # with characters that are cut there
    for piece in joined(pieces, EVENT_BYTES):
        if piece.stream == GAP:
            dropped += piece.size + decoder.forget()
            decoder.place = piece.end
            continue
        if dropped:
            cut, piece = after_gap(piece)
            decoder.place = piece.at
            yield _event("dropped", {"bytes": dropped + cut}, decoder.mark)
            dropped = 0
        if text := decoder.text(piece):
            yield _text(piece.stream, text, decoder)
    if dropped:
        yield _event("dropped", {"bytes": dropped}, decoder.mark)


def _text(stream: int, text: str, decoder: Decoder) -> bytes:
    return _event("output", {"stream": NAMES[stream], "text": text}, decoder.mark)


def _event(name: str, data: dict[str, object], mark: str | None = None) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False, separators=(",", ":")), id=mark)
