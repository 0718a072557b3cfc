"""`/api/v1/cronjobs/notices` and `/api/v1/cronjobs/{id}/notices`: mails, and what became of them."""

from typing import Annotated

from fastapi import Query, Request, Response

from wsp.cron.endpoints.jobs import Caller, JobId
from wsp.cron.notices import outbox
from wsp.cron.schemas.notices import NoticeOut, Status
from wsp.rest.answers import failures
from wsp.rest.lists import (
    LIST_HEADERS,
    OWNED_PAGE_PARAMETERS,
    SHORT_PAGE_PARAMETERS,
    OwnedPageQuery,
    ShortPageQuery,
    page_headers,
)
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Zone

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

WithStatus = Annotated[Status | None, Query(description="Only those with this status")]


@router.get(
    "/notices",
    operation_id="listCronNotices",
    summary="List the mails about all cron jobs",
    openapi_extra=OWNED_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_notices(
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: OwnedPageQuery,
    request: Request,
    response: Response,
    status: WithStatus = None,
) -> list[NoticeOut]:
    """Mails that were sent, failed, wait or were withheld, newest first; of every owner's jobs for admins.

    `status=failed` shows the alerts that nobody got.
    """
    notices, total = outbox.list_of_owner(session, caller.sees_owner, page, status=status)
    response.headers.update(page_headers(request, page, total))
    return [NoticeOut.of(notice, zone) for notice in notices]


@router.get(
    "/{id}/notices",
    operation_id="listCronJobNotices",
    summary="List the mails about a cron job",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_job_notices(
    id: JobId,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
    status: WithStatus = None,
) -> list[NoticeOut]:
    """Mails about one job that were sent, failed, wait or were withheld, newest first. Kept for 30 days."""
    notices, total = outbox.list_of_job(session, caller.sees_owner, id, page, status=status)
    response.headers.update(page_headers(request, page, total))
    return [NoticeOut.of(notice, zone) for notice in notices]
