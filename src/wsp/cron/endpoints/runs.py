"""`/api/v1/cronjobs/{id}/logs` and `…/runs/{run}`: the runs of a job."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Path, Request, Response

from wsp.cron.endpoints.jobs import Caller, JobId
from wsp.cron.history import runs as service
from wsp.cron.schemas.runs import RUN_PARAMETERS, KillRequest, RunOut, RunQuery, shown_run
from wsp.database import utc_now
from wsp.rest.answers import failures
from wsp.rest.lists import LIST_HEADERS
from wsp.rest.long_answers import LongBody
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer, Zone
from wsp.rest.state import get_state

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

RunId = Annotated[int, Path(description="The run's id", examples=[17])]


@router.get(
    "/{id}/logs",
    operation_id="listCronJobRuns",
    summary="Show the runs of a cron job",
    response_model=list[RunOut],
    openapi_extra=RUN_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_runs(id: JobId, caller: Caller, session: Reader, zone: Zone, page: RunQuery, request: Request) -> Response:
    """The runs, newest first: one for every time the job was due, with what the command printed.

    With `limit`, the `Link` header says where the list goes on. Its links stay good while runs are added.
    """
    found = service.list_runs(session, caller.sees_owner, id, page, utc_now())
    body = LongBody()
    body.write_list(shown_run(run, zone, output=page.output) for runs in found.runs for run in runs)
    return body.answer(_headers(request, found))


def _headers(request: Request, found: service.RunList) -> dict[str, str]:
    headers = {"X-Total-Count": str(found.total)}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("offset", "cursor")]
    links = [
        f'<{request.url.path}?{urlencode([*kept, ("cursor", str(cursor))])}>; rel="{relation}"'
        for relation, cursor in (("next", found.older), ("prev", found.newer))
        if cursor is not None
    ]
    if links:
        headers["Link"] = ", ".join(links)
    return headers


@router.get("/{id}/runs/{run}", operation_id="getCronJobRun", summary="Show a run", responses=failures(404))
def get_run(id: JobId, run: RunId, caller: Caller, session: Reader, zone: Zone) -> RunOut:
    """One run of a job."""
    return RunOut.of(service.get_run(session, caller.sees_owner, id, run), zone)


@router.post(
    "/{id}/runs/{run}/kill",
    status_code=202,
    operation_id="killCronJobRun",
    summary="End a run",
    responses=failures(404, 409),
)
def kill_run(
    id: JobId, run: RunId, body: KillRequest, caller: Caller, session: Writer, zone: Zone, request: Request
) -> RunOut:
    """The command and all that it started get SIGTERM, and SIGKILL when the grace is over. The answer comes before.

    A run that waits is not started any more. To ask twice changes nothing; a run that is over is a 409.
    """
    settings = get_state(request).settings
    killed = service.kill_run(
        session, settings, caller.sees_owner, id, run, by=caller.username, now=utc_now(), **body.model_dump()
    )
    return RunOut.of(killed, zone)
