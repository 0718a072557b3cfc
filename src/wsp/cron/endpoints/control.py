"""`/api/v1/cronjobs/…`: run now, pause and resume, maintenance windows."""

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator

from wsp.auth.dependencies import Principal, caller
from wsp.cron import control, manual
from wsp.cron.schemas.control import (
    EVERYBODY,
    PauseBody,
    PauseOut,
    RequestedRun,
    ResumeBody,
    WindowCreate,
    WindowList,
    WindowOut,
)
from wsp.rest.answers import Message, failures
from wsp.rest.fields import one_line
from wsp.rest.lists import LIST_HEADERS, OWNED_PAGE_PARAMETERS, OwnedPageQuery, page_headers
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer, Zone

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]
JobId = Annotated[int, Path(description="The job's id", examples=[5])]
WindowId = Annotated[int, Path(description="The window's id", examples=[2])]
OwnerParameter = Annotated[
    str | None,
    Query(max_length=32, description="Whose (for admins)"),
    AfterValidator(lambda owner: owner and one_line(owner)),
]
_LOCATION = {"Location": {"description": "Where the run is found", "schema": {"type": "string"}}}


@router.post(
    "/{id}/run",
    status_code=202,
    operation_id="runCronJob",
    summary="Run a cron job now",
    responses={202: {"headers": _LOCATION}, **failures(404, 409)},
)
def run_job(
    id: JobId, caller: Caller, session: Writer, zone: Zone, request: Request, response: Response
) -> RequestedRun:
    """Starts within half a second, also when the job is disabled or paused.

    409 when another run of it is going and the job's `overlap` is `skip`; 503 when no scheduler is running.
    """
    run = manual.request_run(session, caller.sees_owner, id, requested_by=caller.username)
    response.headers["Location"] = f"{request.url.path.rstrip('/').removesuffix('/run')}/runs/{run.id}"
    return RequestedRun.requested(run, zone)


@router.get("/pause", operation_id="getCronPause", summary="Are the cron jobs paused?")
def get_pause(caller: Caller, session: Reader, zone: Zone, owner: OwnerParameter = None) -> PauseOut:
    """Of the caller, or of the owner whom an admin names."""
    whose = caller.owner_for(owner)
    return PauseOut.of(whose, control.pause_of(session, whose), zone)


@router.post("/pause", operation_id="pauseCronJobs", summary="Pause all cron jobs of an owner", responses=failures(409))
def pause(body: PauseBody, caller: Caller, session: Writer, zone: Zone) -> PauseOut:
    """What is due meanwhile is skipped, with the reason in its log. Running commands go on; so does "run now"."""
    whose = caller.owner_for(body.owner)
    paused = control.pause(session, whose, until=body.until, reason=body.reason or "")
    return PauseOut.of(whose, paused, zone)


@router.post(
    "/resume", operation_id="resumeCronJobs", summary="Resume all cron jobs of an owner", responses=failures(409)
)
def resume(body: ResumeBody, caller: Caller, session: Writer, zone: Zone) -> PauseOut:
    """From now on the jobs run again when they are due. What was skipped is not made up for."""
    whose = caller.owner_for(body.owner)
    control.resume(session, whose)
    return PauseOut.of(whose, None, zone)


@router.get(
    "/maintenance",
    operation_id="listMaintenanceWindows",
    summary="List maintenance windows",
    openapi_extra=OWNED_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_windows(
    caller: Caller, session: Reader, zone: Zone, page: OwnedPageQuery, request: Request, response: Response
) -> WindowList:
    """The caller's, and those for the jobs of all owners; for admins every one."""
    windows, total = control.list_windows(session, caller.sees_owner, page)
    response.headers.update(page_headers(request, page, total))
    return WindowList(windows=[WindowOut.of(window, zone) for window in windows], total=total)


@router.post(
    "/maintenance",
    status_code=201,
    operation_id="createMaintenanceWindow",
    summary="Create a maintenance window",
    responses=failures(409),
)
def create_window(body: WindowCreate, caller: Caller, session: Writer, zone: Zone) -> WindowOut:
    """What is due within it is skipped, with the reason in its log. Running commands go on."""
    owner = None if body.owner == EVERYBODY and caller.is_admin else caller.owner_for(body.owner)
    return WindowOut.of(control.create_window(session, **body.named() | {"owner": owner}), zone)


@router.delete(
    "/maintenance/{window_id}",
    operation_id="deleteMaintenanceWindow",
    summary="Delete a maintenance window",
    responses=failures(404),
)
def delete_window(window_id: WindowId, caller: Caller, session: Writer) -> Message:
    """Jobs that it would have held up run again when they are due."""
    control.delete_window(session, caller.sees_owner, window_id)
    return Message(message="Maintenance window deleted successfully")
