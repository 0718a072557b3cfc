"""`/api/v1/ftp/…`: accounts."""

from fastapi import Request, Response

from wsp.ftp import service
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.ftp.schemas import (
    AccountChange,
    AccountCreate,
    AccountList,
    AccountOut,
    AccountWithUsage,
    FtpStatus,
    IpRestrictions,
    RestrictedAccountOut,
    shown_account,
)
from wsp.ftp.usage import usage_of
from wsp.heartbeat import alive
from wsp.rest.answers import Message, failures
from wsp.rest.kept import Answer
from wsp.rest.lists import LIST_HEADERS, PAGE_PARAMETERS, PageQuery, page_headers
from wsp.rest.long_answers import LongBody
from wsp.rest.session import Reader, Writer, Zone
from wsp.rest.state import get_state

router = ftp_router()


@router.get(
    "/",
    operation_id="listFtpAccounts",
    summary="List FTP accounts",
    response_model=AccountList,
    openapi_extra=PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
async def list_accounts(caller: Caller, page: PageQuery, request: Request) -> Response:
    """Every account of the caller, by name; of every owner for admins."""
    state, visible_to = get_state(request), caller.sees_owner

    def make() -> Answer:
        body = LongBody()
        body.write(b'{"accounts":[')
        with state.database.reading() as session:
            pieces = service.list_accounts(session, visible_to, page)
            body.write_items(shown_account(account, state.zone) for accounts in pieces for account in accounts)
        body.write(b'],"total":%d}' % pieces.total)
        return Answer(body, page_headers(request, page, pieces.total))

    return await state.kept.get(("ftp accounts", visible_to, page, request.url.path, request.url.query), make)


@router.get("/status", operation_id="getFtpStatus", summary="Is FTP running?")
def get_status(caller: Caller, session: Reader) -> FtpStatus:
    """Whether the FTP service is alive, and how many accounts there are."""
    return FtpStatus(
        installed=True,
        running=alive(session, "ftp"),
        total_accounts=service.count_accounts(session, caller.sees_owner),
    )


@router.post(
    "/", status_code=201, operation_id="createFtpAccount", summary="Create an FTP account", responses=failures(409)
)
def create_account(body: AccountCreate, caller: Caller, session: Writer, zone: Zone) -> AccountOut:
    """The account can log in as soon as this answers."""
    account = service.create_account(
        session,
        owner=caller.owner_for(body.owner),
        name=body.username,
        **body.columns(),
    )
    return AccountOut.of(account, zone)


@router.get("/{id}", operation_id="getFtpAccount", summary="Show an FTP account", responses=failures(404))
def get_account(id: AccountId, caller: Caller, session: Reader, zone: Zone, request: Request) -> AccountWithUsage:
    """One account, with what its home holds, as of the last seconds while it is in use over FTP."""
    account = service.get_account(session, caller.sees_owner, id)
    usage = usage_of(session, get_state(request).settings.files, account.home_dir)
    return AccountWithUsage.with_usage(account, zone, usage)


@router.put("/{id}", operation_id="changeFtpAccount", summary="Change an FTP account", responses=failures(404))
def change_account(id: AccountId, body: AccountChange, caller: Caller, session: Writer, zone: Zone) -> AccountOut:
    """Changes what the body names, and nothing else."""
    return AccountOut.of(service.change_account(session, caller.sees_owner, id, body.columns()), zone)


@router.put(
    "/{id}/ip-restrictions",
    operation_id="restrictFtpAccount",
    summary="Restrict an FTP account to addresses",
    responses=failures(404),
)
def restrict_account(
    id: AccountId, body: IpRestrictions, caller: Caller, session: Writer, zone: Zone
) -> RestrictedAccountOut:
    """An empty list lifts the restriction."""
    account = service.change_account(session, caller.sees_owner, id, body.model_dump())
    return RestrictedAccountOut.of(account, zone)


@router.post(
    "/{id}/toggle",
    operation_id="toggleFtpAccount",
    summary="Enable or disable an FTP account",
    responses=failures(404, 409),
)
def toggle_account(id: AccountId, caller: Caller, session: Writer, zone: Zone) -> AccountOut:
    """Flips `enabled`."""
    return AccountOut.of(service.toggle_account(session, caller.sees_owner, id), zone)


@router.delete("/{id}", operation_id="deleteFtpAccount", summary="Delete an FTP account", responses=failures(404))
def delete_account(id: AccountId, caller: Caller, session: Writer) -> Message:
    """The account can no longer log in; its files stay."""
    service.delete_account(session, caller.sees_owner, id)
    return Message(message="FTP account deleted successfully")
