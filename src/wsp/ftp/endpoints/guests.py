"""`/api/v1/ftp/bans`, and `/api/v1/ftp/{id}/check`."""

from typing import Annotated

from fastapi import Path, Request, Response

from wsp.database import utc_now
from wsp.errors import Forbidden
from wsp.ftp import guests, service
from wsp.ftp.checks import check_login
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.ftp.guest_schemas import BanList, BannedAddress, BanOut, LoginCheck, LoginVerdict
from wsp.rest.answers import Message, failures
from wsp.rest.lists import LIST_HEADERS, SHORT_PAGE_PARAMETERS, ShortPageQuery, page_headers
from wsp.rest.session import Reader, Writer, Zone
from wsp.rest.state import get_state

ADMINS_ONLY = "Only an admin may see and lift bans"

router = ftp_router()


@router.get(
    "/bans",
    operation_id="listFtpBans",
    summary="List banned addresses",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_bans(
    caller: Caller, page: ShortPageQuery, session: Reader, zone: Zone, request: Request, response: Response
) -> BanList:
    """The addresses that may not log in because too many of their logins failed, the latest first. For admins."""
    _require_admin(caller)
    bans, total = guests.list_bans(session, page, utc_now())
    response.headers.update(page_headers(request, page, total))
    return BanList(bans=[BanOut.of(ban, zone) for ban in bans], total=total)


@router.delete(
    "/bans/{address:path}", operation_id="liftFtpBan", summary="Lift the ban of an address", responses=failures(404)
)
def lift_ban(
    address: Annotated[BannedAddress, Path(description="As the list shows it", examples=["203.0.113.7"])],
    caller: Caller,
    session: Writer,
) -> Message:
    """It may log in again at once, and its failures are forgotten. For admins."""
    _require_admin(caller)
    guests.lift_ban(session, address, utc_now())
    return Message(message="Ban lifted successfully")


@router.post(
    "/{id}/check",
    operation_id="checkFtpLogin",
    summary="Would a login be allowed?",
    responses=failures(404, 409),
)
def check(id: AccountId, body: LoginCheck, caller: Caller, session: Writer, request: Request) -> LoginVerdict:
    """Says whether a login to the account would be allowed, and if not, why. It counts as no attempt.

    Without `password` the password is taken to be right.
    """
    state = get_state(request)
    # Not on `session`, which is there for `Idempotency-Key`: a slow hash is no business of a transaction.
    with state.database.reading() as reading:
        service.get_account(reading, caller.sees_owner, id)
    password = body.password if "password" in body.model_fields_set else None
    denied = check_login(
        state.database, id, body.address, tls=body.tls, password=password, settings=state.settings, now=utc_now()
    )
    return LoginVerdict.of(denied, password_given=password is not None)


def _require_admin(caller: Caller) -> None:
    if not caller.is_admin:
        raise Forbidden(ADMINS_ONLY)
