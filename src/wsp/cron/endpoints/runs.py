"""`/api/v1/cronjobs/{id}/logs`: the runs of a job."""

from typing import Annotated

from fastapi import Path, Request, Response

from wsp.auth.dependencies import Principal, caller
from wsp.cron import runs as service
from wsp.cron.run_schemas import RunOut
from wsp.rest.answers import failures
from wsp.rest.lists import LIST_HEADERS, SHORT_PAGE_PARAMETERS, ShortPageQuery, page_headers
from wsp.rest.routing import Router
from wsp.rest.session import Reader, Zone

router = Router(prefix="/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]
JobId = Annotated[int, Path(description="The job's id", examples=[5])]


@router.get(
    "/{id}/logs",
    operation_id="listCronJobRuns",
    summary="Show the runs of a cron job",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_runs(
    id: JobId,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
) -> list[RunOut]:
    """The runs, newest first: one for every time the job was due, with what the command printed."""
    runs, total = service.list_runs(session, caller.sees_owner, id, page)
    response.headers.update(page_headers(request, page, total))
    return [RunOut.of(run, zone) for run in runs]
