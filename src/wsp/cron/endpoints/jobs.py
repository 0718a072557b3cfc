"""`/api/v1/cronjobs`: the jobs themselves."""

from typing import Annotated

from fastapi import Path, Request, Response

from wsp.auth.dependencies import Principal, caller
from wsp.cron import service
from wsp.cron.schemas import JobChange, JobCreate, JobOut
from wsp.heartbeat import alive
from wsp.rest.answers import Message, failures
from wsp.rest.lists import LIST_HEADERS, PAGE_PARAMETERS, PageQuery, page_headers
from wsp.rest.routing import Router
from wsp.rest.session import Reader, Writer, Zone

router = Router(prefix="/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]
JobId = Annotated[int, Path(description="The job's id", examples=[5])]


@router.get(
    "/",
    operation_id="listCronJobs",
    summary="List cron jobs",
    openapi_extra=PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_jobs(
    caller: Caller, session: Reader, zone: Zone, page: PageQuery, request: Request, response: Response
) -> list[JobOut]:
    """Every job of the caller, oldest first; of every owner for admins."""
    jobs, total = service.list_jobs(session, caller.sees_owner, page)
    response.headers.update(page_headers(request, page, total))
    scheduler_alive = alive(session, "cron")
    return [JobOut.of(job, zone, scheduler_alive=scheduler_alive) for job in jobs]


@router.post("/", status_code=201, operation_id="createCronJob", summary="Create a cron job", responses=failures(409))
def create_job(body: JobCreate, caller: Caller, session: Writer, zone: Zone) -> JobOut:
    """The scheduler arms the job within a second; `next_run_at` is null until then."""
    owner = caller.owner_for(body.owner)
    job = service.create_job(session, owner=owner, **body.model_dump(exclude={"owner"}))
    return JobOut.of(job, zone, scheduler_alive=False)


@router.get("/{id}", operation_id="getCronJob", summary="Show a cron job", responses=failures(404))
def get_job(id: JobId, caller: Caller, session: Reader, zone: Zone) -> JobOut:
    """One job."""
    job = service.get_job(session, caller.sees_owner, id)
    return JobOut.of(job, zone, scheduler_alive=alive(session, "cron"))


@router.put("/{id}", operation_id="changeCronJob", summary="Change a cron job", responses=failures(404))
def change_job(id: JobId, body: JobChange, caller: Caller, session: Writer, zone: Zone) -> JobOut:
    """Changes what the body names, and nothing else."""
    job = service.change_job(session, caller.sees_owner, id, body.named())
    return JobOut.of(job, zone, scheduler_alive=alive(session, "cron"))


@router.delete("/{id}", operation_id="deleteCronJob", summary="Delete a cron job", responses=failures(404))
def delete_job(id: JobId, caller: Caller, session: Writer) -> Message:
    """The job and its log are removed. A command that is running is not stopped."""
    service.delete_job(session, caller.sees_owner, id)
    return Message(message="Cron job deleted successfully")
