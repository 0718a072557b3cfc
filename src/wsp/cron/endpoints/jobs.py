"""`/api/v1/cronjobs`: the jobs themselves."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Path, Request, Response
from sqlalchemy.orm import Session

from wsp.auth.dependencies import Principal, caller
from wsp.cron import service
from wsp.cron.models import CronJob
from wsp.cron.planning.rows import JobRow
from wsp.cron.schemas.jobs import JOB_PARAMETERS, JobChange, JobCreate, JobFields, JobOut, JobQuery, shown_job
from wsp.cron.surroundings import look_around
from wsp.errors import Forbidden
from wsp.rest.answers import Message, failures
from wsp.rest.lists import LIST_HEADERS, page_headers
from wsp.rest.long_answers import LongBody
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer, Zone

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]
JobId = Annotated[int, Path(description="The job's id", examples=[5])]


@router.get(
    "/",
    operation_id="listCronJobs",
    summary="List cron jobs",
    response_model=list[JobOut],
    openapi_extra=JOB_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_jobs(caller: Caller, session: Reader, zone: Zone, page: JobQuery, request: Request) -> Response:
    """Every job of the caller, oldest first; of every owner for admins."""
    pieces = service.list_jobs(session, caller.sees_owner, page)
    body = LongBody()
    body.write_list(_listed(pieces, session, zone))
    return body.answer(page_headers(request, page, pieces.total))


@router.post("/", status_code=201, operation_id="createCronJob", summary="Create a cron job", responses=failures(409))
def create_job(body: JobCreate, caller: Caller, session: Writer, zone: Zone) -> JobOut:
    """The scheduler arms the job within a second; `next_run_at` is null until then."""
    owner = caller.owner_for(body.owner)
    job = service.create_job(session, owner=owner, **_allowed(body, caller))
    return _shown(job, session, zone)


@router.get("/{id}", operation_id="getCronJob", summary="Show a cron job", responses=failures(404))
def get_job(id: JobId, caller: Caller, session: Reader, zone: Zone) -> JobOut:
    """One job."""
    return _shown(service.get_job(session, caller.sees_owner, id), session, zone)


@router.put("/{id}", operation_id="changeCronJob", summary="Change a cron job", responses=failures(404))
def change_job(id: JobId, body: JobChange, caller: Caller, session: Writer, zone: Zone) -> JobOut:
    """Changes what the body names, and nothing else. What is named in `env`, `tags` or `after` is all there is then."""
    return _shown(service.change_job(session, caller.sees_owner, id, _allowed(body, caller)), session, zone)


@router.post(
    "/{id}/toggle",
    operation_id="toggleCronJob",
    summary="Enable or disable a cron job",
    responses=failures(404, 409),
)
def toggle_job(id: JobId, caller: Caller, session: Writer, zone: Zone) -> JobOut:
    """Flips `enabled`."""
    return _shown(service.toggle_job(session, caller.sees_owner, id), session, zone)


@router.delete("/{id}", operation_id="deleteCronJob", summary="Delete a cron job", responses=failures(404, 409))
def delete_job(id: JobId, caller: Caller, session: Writer) -> Message:
    """The job and its log are removed. A command that is running is not stopped.

    409 when another job has no cron expression, and runs after this one alone.
    """
    service.delete_job(session, caller.sees_owner, id)
    return Message(message="Cron job deleted successfully")


def _allowed(body: JobFields, caller: Principal) -> dict[str, Any]:
    """What the body names, when this caller may set it."""
    changes = body.changes()
    if changes.get("nice", 0) < 0 and not caller.is_admin:
        raise Forbidden("Only an admin may set nice below 0")
    return changes


def _listed(pieces: Iterable[Sequence[JobRow]], session: Session, zone: ZoneInfo) -> Iterator[dict[str, Any]]:
    for jobs in pieces:
        around = look_around(session, jobs, zone)
        for job in jobs:
            yield shown_job(job, zone, around)


def _shown(job: CronJob, session: Session, zone: ZoneInfo) -> JobOut:
    return JobOut.of(job, zone, look_around(session, [job], zone))
