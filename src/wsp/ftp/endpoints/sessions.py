"""`/api/v1/ftp/sessions`, and `/api/v1/ftp/{id}/sessions/last`."""

from typing import Annotated

from fastapi import Path, Request, Response
from pydantic import AfterValidator

from wsp.database import utc_now
from wsp.ftp import sessions
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.ftp.history_schemas import LastSessionOut, SessionList, SessionOut
from wsp.rest.answers import Message, failures
from wsp.rest.fields import one_line
from wsp.rest.lists import LIST_HEADERS, PAGE_PARAMETERS, PageQuery, page_headers
from wsp.rest.session import Reader, Writer, Zone

router = ftp_router()

SessionId = Annotated[
    str,
    Path(description="The session's id", examples=["3f8c2f0f4d0e4a55a3b1d5a2b1c0d9e8"]),
    AfterValidator(one_line),
]


@router.get(
    "/sessions",
    operation_id="listFtpSessions",
    summary="List live FTP sessions",
    openapi_extra=PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_sessions(
    caller: Caller, session: Reader, zone: Zone, page: PageQuery, request: Request, response: Response
) -> SessionList:
    """Who is logged in to the caller's accounts, and what they do; to everybody's for admins. The newest first."""
    now = utc_now()
    rows, total = sessions.list_sessions(session, caller.sees_owner, page, now=now)
    response.headers.update(page_headers(request, page, total))
    return SessionList(sessions=[SessionOut.of(row, zone, now=now) for row in rows], total=total)


@router.delete(
    "/sessions/{id}", operation_id="endFtpSession", summary="End a live FTP session", responses=failures(404)
)
def end_session(id: SessionId, caller: Caller, session: Writer) -> Message:
    """The session ends within a second, and its transfer with it. The client may log in again."""
    sessions.end_session(session, caller.sees_owner, id, now=utc_now())
    return Message(message="FTP session ended successfully")


@router.get(
    "/{id}/sessions/last",
    operation_id="getLastFtpSession",
    summary="How the last session of an FTP account went",
    responses=failures(404),
)
def get_last_session(id: AccountId, caller: Caller, session: Reader, zone: Zone) -> LastSessionOut:
    """Why did my last session fail? Refused logins count too, with the true reason.

    `{id}` may be `anonymous@<domain>` as well. 404 when there was no session yet.
    """
    return LastSessionOut.of(sessions.last_session(session, caller.sees_owner, id, now=utc_now()), zone)
