"""`/api/v1/cronjobs/notices` and `/api/v1/cronjobs/{id}/notices`: mails, and what became of them."""

from collections.abc import Mapping
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import Query, Request, Response

from wsp.cron.endpoints.jobs import Caller, JobId
from wsp.cron.notices import outbox
from wsp.cron.schemas.notices import NoticeOut, Status, shown_notice
from wsp.paging import Chosen
from wsp.rest.answers import failures
from wsp.rest.lists import (
    LIST_HEADERS,
    OWNED_PAGE_PARAMETERS,
    SHORT_PAGE_PARAMETERS,
    OwnedPageQuery,
    ShortPageQuery,
    page_headers,
)
from wsp.rest.long_answers import LongBody
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Zone

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

WithStatus = Annotated[Status | None, Query(description="Only those with this status")]


@router.get(
    "/notices",
    operation_id="listCronNotices",
    summary="List the mails about all cron jobs",
    response_model=list[NoticeOut],
    openapi_extra=OWNED_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_notices(
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: OwnedPageQuery,
    request: Request,
    status: WithStatus = None,
) -> Response:
    """Mails that were sent, failed, wait or were withheld, newest first; of every owner's jobs for admins.

    `status=failed` shows the alerts that nobody got.
    """
    notices, total = outbox.list_of_owner(session, caller.sees_owner, page, status=status)
    return _answer(notices, zone, page_headers(request, page, total))


@router.get(
    "/{id}/notices",
    operation_id="listCronJobNotices",
    summary="List the mails about a cron job",
    response_model=list[NoticeOut],
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
    status: WithStatus = None,
) -> Response:
    """Mails about one job that were sent, failed, wait or were withheld, newest first. Kept for 30 days."""
    notices, total = outbox.list_of_job(session, caller.sees_owner, id, page, status=status)
    return _answer(notices, zone, page_headers(request, page, total))


def _answer(pieces: Chosen, zone: ZoneInfo, headers: Mapping[str, str]) -> Response:
    body = LongBody()
    body.write_list(shown_notice(notice, zone) for notices in pieces for notice in notices)
    return body.answer(headers)
