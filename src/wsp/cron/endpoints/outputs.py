"""`/api/v1/cronjobs/{id}/runs/{run}/output` and `…/stream`: what the command of a run writes."""

import re
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from wsp.auth.dependencies import KeyFor
from wsp.cron.endpoints import stream as run_stream
from wsp.cron.endpoints.jobs import Caller, JobId
from wsp.cron.endpoints.runs import RunId
from wsp.cron.folders import OUTPUTS
from wsp.cron.history import runs
from wsp.cron.history.output import Decoder, Measure, RunOutput, Stream, as_text, gathered, kept_bytes, of_stream
from wsp.cron.history.watching import Watching
from wsp.cron.models import ENDED, JobRun
from wsp.cron.schemas.runs import RunOut
from wsp.heartbeat import node_name
from wsp.rest.answers import Failure, failures
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader
from wsp.rest.state import State, get_state

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

MAX_PLACE = 10**18
BYTES = "application/octet-stream"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_EXCERPT_HEADER = {
    "X-Output-Excerpt": {
        "description": "Why this is not all that was kept, when it is not",
        "schema": {"type": "string"},
        "example": "The whole output lies on another machine",
    }
}


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema} | {
        "example": example
    }


def _whole_number(description: str, example: int) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "integer"}, "example": example}


_NEXT_OFFSET = {"X-Output-Next-Offset": _whole_number("The `offset` that goes on where this ends", 1843)}
_LEFT_OUT = {
    "X-Output-Left-Out": _whole_number("Bytes that were dropped in the middle; nothing stands in their place", 52)
}
_BINARY = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
_SENTENCE = "The range begins after the end: there are 5 bytes"
_OUTPUT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The output: text, or with `download` the bytes",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "done\n"}, **_BINARY},
        "headers": {**_NEXT_OFFSET, **_LEFT_OUT, **_EXCERPT_HEADER},
    },
    206: {
        "description": "A part of the bytes (RFC 9110, 14)",
        "content": _BINARY,
        "headers": {**_LEFT_OUT, **_EXCERPT_HEADER},
    },
    416: {
        "model": Failure,
        "description": "RANGE_NOT_SATISFIABLE",
        "content": {
            "application/json": {
                "example": {
                    "success": False,
                    "code": "VALIDATION_ERROR",
                    "error": _SENTENCE,
                    "message": _SENTENCE,
                    "status": 416,
                }
            }
        },
    },
    **failures(404),
}


@router.get(
    "/{id}/runs/{run}/output",
    operation_id="getCronJobRunOutput",
    summary="Show the output of a run",
    response_class=Response,
    responses=_OUTPUT_ANSWERS,
    openapi_extra={"parameters": [_header("Range", "With `download`: one range of bytes", "bytes=0-1023")]},
)
def get_output(
    id: JobId,
    run: RunId,
    caller: Caller,
    session: Reader,
    request: Request,
    stream: Annotated[Stream, Query(description="Standard output, standard error, or both as they came")] = "all",
    offset: Annotated[
        int, Query(ge=0, le=MAX_PLACE, description="Text: from this byte of all that was written on")
    ] = 0,
    limit: Annotated[int | None, Query(ge=1, le=MAX_PLACE, description="Text: about so many bytes at most")] = None,
    download: Annotated[
        bool, Query(description="The bytes as they were written, as a file; also by `Accept: application/octet-stream`")
    ] = False,
) -> Response:
    """What the command has written, while it goes on what there is by now.

    As text, what is no UTF-8 is shown as U+FFFD, NUL as U+2400, and a line says how much was left out between the
    beginning and the end of a long one. As bytes, it can be had by ranges.
    """
    row = runs.get_run(session, caller.sees_owner, id, run)
    output = _output_of(row, get_state(request))
    headers = {"X-Output-Excerpt": output.excerpt} if output.excerpt else {}
    if download or BYTES in request.headers.get("accept", ""):
        return _bytes(row, output, stream, request, headers)
    end = output.page_end(offset, limit)
    headers["X-Output-Next-Offset"] = str(end)
    text = as_text(of_stream(output.pieces(offset, end), stream))
    return StreamingResponse(gathered(each.encode() for each in text), headers=headers, media_type="text/plain")


def _bytes(row: JobRun, output: RunOutput, stream: Stream, request: Request, headers: dict[str, str]) -> Response:
    measure = Measure.of(of_stream(output.pieces(), stream))
    first, last = 0, measure.kept
    over = row.status in ENDED
    # Of a run that goes on, more may be left out while this is sent: no place among what is kept stays what it is.
    moving = not over and measure.left_out > 0
    headers["Accept-Ranges"] = "none" if moving else "bytes"
    suffix = "out" if stream == "all" else stream
    headers["Content-Disposition"] = f'attachment; filename="job-{row.job_id}-run-{row.id}.{suffix}"'
    if measure.left_out:
        headers["X-Output-Left-Out"] = str(measure.left_out)
    if over:
        headers["ETag"] = f'"{row.id}-{stream}-{measure.kept}"'
    wanted = None if moving else request.headers.get("range")
    status = 200
    if wanted is not None and request.headers.get("if-range") in (None, headers.get("ETag")):
        part = _range(wanted, measure.kept)
        if part is not None:
            status = 206
            first, last = part
            if first >= last:
                return _beyond(measure.kept)
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{measure.kept}"
    if over or status == 206:
        headers["Content-Length"] = str(last - first)
    content = kept_bytes(of_stream(output.pieces(0, measure.end), stream), first, last)
    return StreamingResponse(gathered(content), status, headers=headers, media_type=BYTES)


def _range(wanted: str, size: int) -> tuple[int, int] | None:
    """What of the bytes is wanted: from the first on, before the second. None for what may be passed over.

    Several ranges, and what is no range, are answered as if nothing was asked for (RFC 9110, 14.2).
    """
    found = _RANGE.fullmatch(wanted.strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _beyond(size: int) -> Response:
    sentence = f"The range begins after the end: there are {size} bytes"
    failure = Failure(success=False, code="VALIDATION_ERROR", error=sentence, message=sentence, status=416)
    content = failure.model_dump_json(exclude_none=True)
    return Response(content, 416, headers={"Content-Range": f"bytes */{size}"}, media_type="application/json")


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


_EXAMPLE = """\
retry: 2000

event: status
data: {"status":"running"}

event: output
data: {"stream":"stdout","text":"backing up…\\n"}
id: 14

event: dropped
data: {"bytes":52}
id: 66

event: end
data: {"id":17,"job_id":5,"status":"succeeded",…}

"""


@router.get(
    "/{id}/runs/{run}/stream",
    operation_id="streamCronJobRun",
    summary="Follow a run",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `status`, `output`, `dropped`, and at the end `end` with the run",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
            "headers": _EXCERPT_HEADER,
        },
        **failures(404),
    },
    openapi_extra={"parameters": [_header("Last-Event-ID", "Go on after the event with this id", "14")]},
)
async def follow_run(
    id: JobId,
    run: RunId,
    caller: Caller,
    request: Request,
    from_: Annotated[
        str, Query(alias="from", max_length=64, description="Go on from this byte, or from this event's id")
    ] = "0",
) -> EventStream:
    """What the command has written, then what it writes, until the run has ended. A comment comes every 15 seconds.

    Of a run that is over, all output and its end. After a break, `Last-Event-ID` goes on where it was. It ends early
    when the caller may not look on any more.
    """
    last = request.headers.get("last-event-id")
    decoder = Decoder.resumed(from_, field="from") if last is None else Decoder.resumed(last, field="Last-Event-ID")
    watching: Watching = request.app.state.watching
    load = partial(_load, get_state(request), caller.sees_owner, id, run)
    output, _ = await watching.on_thread(load)
    headers = run_stream.HEADERS | ({"X-Output-Excerpt": output.excerpt} if output.excerpt else {})

    async def recheck() -> None:
        request.state.principal = None  # what was found out at the beginning
        sees_owner = (await KeyFor("cron")(request)).sees_owner
        if sees_owner != caller.sees_owner:  # an admin that is none any more may have jobs of their own
            await watching.on_thread(partial(_load, get_state(request), sees_owner, id, run))

    return EventStream(run_stream.events(watching, run, decoder, load, recheck), headers=headers)


def _load(state: State, visible_to: str | None, job_id: int, run_id: int) -> tuple[RunOutput, RunOut]:
    with state.database.reading() as session:
        row = runs.get_run(session, visible_to, job_id, run_id)
        return _output_of(row, state), RunOut.of(row, state.zone)


def _output_of(row: JobRun, state: State) -> RunOutput:
    return RunOutput(row, state.settings.data_dir / OUTPUTS, node_name())
