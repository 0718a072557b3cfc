"""`/api/v1/ftp/{id}/transfers`."""

from fastapi import Request, Response

from wsp.ftp import transfers
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.ftp.history_schemas import TRANSFER_PARAMETERS, TransferList, TransferOut, TransferQuery
from wsp.rest.answers import failures
from wsp.rest.lists import LIST_HEADERS, page_headers
from wsp.rest.session import Reader, Zone

router = ftp_router()


@router.get(
    "/{id}/transfers",
    operation_id="listFtpTransfers",
    summary="List the transfers of an FTP account",
    openapi_extra=TRANSFER_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_transfers(
    id: AccountId,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: TransferQuery,
    request: Request,
    response: Response,
) -> TransferList:
    """Uploads and downloads that are over, the newest first, with why the failed ones failed; no listings.

    `{id}` may be `anonymous@<domain>` as well. Kept for `WSP_FTP_KEEP_TRANSFERS_DAYS`. `search` is for file names. More
    than 10,000 need a `limit`.
    """
    rows, total = transfers.list_transfers(session, caller.sees_owner, id, page)
    response.headers.update(page_headers(request, page, total))
    return TransferList(transfers=[TransferOut.of(row, zone) for row in rows], total=total)
