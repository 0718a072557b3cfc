"""`/api/v1/ftp/{id}/credentials`."""

from typing import Annotated

from fastapi import Path, Request, Response
from pydantic import AfterValidator

from wsp.database import utc_now
from wsp.ftp import credentials
from wsp.ftp.deploy_schemas import CredentialIssued, CredentialList, CredentialOut, CredentialRequest
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.rest.answers import Message, failures
from wsp.rest.fields import one_line
from wsp.rest.lists import LIST_HEADERS, SHORT_PAGE_PARAMETERS, ShortPageQuery, page_headers
from wsp.rest.session import Reader, Writer, Zone

router = ftp_router()

CredentialId = Annotated[str, Path(examples=["e24ff6f1754c2d9a"]), AfterValidator(one_line)]


@router.post(
    "/{id}/credentials",
    status_code=201,
    operation_id="issueFtpCredential",
    summary="Issue a short-lived password",
    responses=failures(404, 409),
)
def issue_credential(
    id: AccountId, body: CredentialRequest, caller: Caller, session: Writer, zone: Zone
) -> CredentialIssued:
    """Bound to a folder and to addresses, for CI. It is shown in this answer alone."""
    credential, secret = credentials.issue_credential(
        session,
        caller.sees_owner,
        id,
        folder=body.folder,
        allowed_ips=body.networks,
        expires_in=body.expires_in,
        description=body.description,
        now=utc_now(),
    )
    shown = CredentialOut.of(credential, zone)
    return CredentialIssued(
        message="Credential issued. Keep the password, it is not shown again.",
        username=credential.username,
        password=secret,
        expires_at=shown.expires_at,
        credential=shown,
    )


@router.get(
    "/{id}/credentials",
    operation_id="listFtpCredentials",
    summary="List short-lived passwords",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_credentials(
    id: AccountId,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
) -> CredentialList:
    """Those of the account that have not expired, without the passwords."""
    found, total = credentials.list_credentials(session, caller.sees_owner, id, page, now=utc_now())
    response.headers.update(page_headers(request, page, total))
    return CredentialList(credentials=[CredentialOut.of(credential, zone) for credential in found], total=total)


@router.delete(
    "/{id}/credentials/{credential_id}",
    operation_id="revokeFtpCredential",
    summary="Revoke a short-lived password",
    responses=failures(404),
)
def revoke_credential(id: AccountId, credential_id: CredentialId, caller: Caller, session: Writer) -> Message:
    """It can no longer be used, and its sessions end."""
    credentials.revoke_credential(session, caller.sees_owner, id, credential_id)
    return Message(message="Credential revoked successfully")
