"""`/api/v1/users/{username}/api-keys` and `/api/v1/auth`."""

from typing import Annotated

from fastapi import Path, Request, Response
from pydantic import AfterValidator
from sqlalchemy.orm import Session

from wsp.auth import service
from wsp.auth.dependencies import Caller, caller, not_scoped
from wsp.auth.models import User
from wsp.auth.schemas import KeyIssued, KeyList, KeyOut, KeyRequest, Me
from wsp.auth.service import Principal
from wsp.errors import NotFound
from wsp.rest.answers import Message, failures
from wsp.rest.fields import one_line
from wsp.rest.lists import LIST_HEADERS, SHORT_PAGE_PARAMETERS, ShortPageQuery, page_headers
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer, Zone

KEYS_AREA = "users"

auth_router = Router(prefix=f"{API_BASE}/auth", tags=["Authentication"], responses=failures())
keys_router = Router(prefix=f"{API_BASE}/users/{{username}}/api-keys", tags=["API keys"], responses=failures(404))

KeysCaller = Annotated[Principal, caller(KEYS_AREA)]
Username = Annotated[str, Path(description="Whose keys", examples=["admin"]), AfterValidator(one_line)]
KeyId = Annotated[str, Path(description="The key's id", examples=["e24ff6f1754c2d9a"]), AfterValidator(one_line)]


@auth_router.get("/me", operation_id="whoAmI", summary="Who the API key belongs to")
async def me(caller: Caller, zone: Zone) -> Me:
    """The user of the API key, and what the key allows."""
    return Me.of(caller, zone)


@keys_router.post(
    "/", status_code=201, operation_id="createApiKey", summary="Issue an API key", responses=failures(409)
)
def create_key(username: Username, body: KeyRequest, caller: Caller, session: Writer, zone: Zone) -> KeyIssued:
    """Admins for anyone, users for themselves; never with more than the calling key has."""
    if not {"all", "ftp", "cron"}.intersection(caller.permissions):
        raise not_scoped(KEYS_AREA)
    user = _visible_user(session, caller, username)
    service.check_delegation(
        caller, permissions=body.permissions, ip_whitelist=body.ip_whitelist, expires_in=body.expires_in
    )
    key, secret = service.issue_key(
        session,
        user,
        name=body.name,
        permissions=body.permissions,
        ip_whitelist=body.ip_whitelist,
        expires_in=body.expires_in,
    )
    return KeyIssued(
        message="API key created. Keep the secret, it is not shown again.",
        secret_key=secret,
        api_key=secret,
        key=KeyOut.of(key, zone),
    )


@keys_router.get(
    "/",
    operation_id="listApiKeys",
    summary="List API keys",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_keys(
    username: Username,
    caller: KeysCaller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
) -> KeyList:
    """The keys of a user, oldest first, without their secrets."""
    keys, total = service.page_of_keys(session, _visible_user(session, caller, username), page)
    response.headers.update(page_headers(request, page, total))
    return KeyList(keys=[KeyOut.of(key, zone) for key in keys], total=total)


@keys_router.delete("/{id}", operation_id="revokeApiKey", summary="Revoke an API key")
def revoke_key(username: Username, id: KeyId, caller: KeysCaller, session: Writer) -> Message:
    """The key stops working with the next request."""
    service.revoke_key(session, _visible_user(session, caller, username), id)
    return Message(message="API key revoked successfully")


def _visible_user(session: Session, caller: Principal, username: str) -> User:
    if not caller.is_admin and username != caller.username:
        raise NotFound("User not found")
    return service.get_user(session, username)
