"""Who calls, and whether their key is made for what they ask."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from wsp.auth.keyring import Keyring
from wsp.auth.service import Principal, address_allowed
from wsp.database import utc_now
from wsp.errors import Forbidden, Unauthorized

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="wsp_ and 48 lower-case hex digits",
    description="An API key: `Authorization: Bearer wsp_…`",
)


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """The principal of the request's API key. Raises Unauthorized, or Forbidden for a foreign address."""
    if credentials is None:
        if "authorization" in request.headers:
            raise Unauthorized
        raise Unauthorized("Missing authorization")
    keyring: Keyring = request.app.state.keyring
    secret, now = credentials.credentials, utc_now()
    principal = keyring.remembered(secret, now)
    if principal is None:
        principal = await run_in_threadpool(keyring.look_up, secret, now)
    address = request.client.host if request.client else ""
    if not address_allowed(address, principal.ip_whitelist):
        raise Forbidden("API key is not allowed from this address")
    request.state.key_id, request.state.key_secret = principal.key_id, secret
    return principal


Caller = Annotated[Principal, Depends(authenticate)]


def scoped(area: str) -> Any:
    """A dependency for a router: the key must be made for this area."""

    async def check(request: Request, caller: Caller) -> None:
        if not caller.may(area, reading=request.method == "GET"):
            raise Forbidden(f"API key is not scoped for '{area}'")

    return Depends(check)
