"""Who calls, and whether their key is made for what they ask."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase

from wsp.addresses import address_allowed
from wsp.auth.keyring import Keyring
from wsp.auth.service import Principal
from wsp.database import utc_now
from wsp.errors import Forbidden, Unauthorized

__all__ = ["Caller", "KeyFor", "Principal", "caller", "not_scoped"]

EVERY_AREA = ""


class KeyFor(SecurityBase):
    """A dependency that gives the principal of the request's API key, which must be made for an area.

    One dependency, not a chain of them: it runs with every request. A `SecurityBase` is also what OpenAPI shows.
    """

    def __init__(self, area: str) -> None:
        self.area = area
        self.scheme_name = "ApiKey"
        self.model = HTTPBearerModel(
            bearerFormat="wsp_ and 48 lower-case hex digits",
            description="An API key: `Authorization: Bearer wsp_…`",
        )

    async def __call__(self, request: Request) -> Principal:
        """Raises Unauthorized, or Forbidden for a foreign address or an area that the key is not made for."""
        principal = await authenticate(request)
        if self.area and not principal.may(self.area, reading=request.method == "GET"):
            raise not_scoped(self.area)
        return principal


def not_scoped(area: str) -> Forbidden:
    """The answer to a key that is not made for an area."""
    return Forbidden(f"API key is not scoped for '{area}'")


def caller(area: str) -> Any:
    """`Annotated[Principal, caller("ftp")]`: the parameter of an endpoint."""
    return Depends(KeyFor(area))


Caller = Annotated[Principal, caller(EVERY_AREA)]


async def authenticate(request: Request) -> Principal:
    """The principal of the request's API key. Raises Unauthorized, or Forbidden for a foreign address."""
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    header = request.headers.get("authorization")
    if header is None:
        raise Unauthorized("Missing authorization")
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthorized
    keyring: Keyring = request.app.state.keyring
    now = utc_now()
    principal, notes = keyring.remembered(secret, now)
    if principal is None:
        principal = await run_in_threadpool(keyring.look_up, secret, now, notes)
    address = request.client.host if request.client else ""
    if not address_allowed(address, principal.ip_whitelist):
        raise Forbidden("API key is not allowed from this address")
    request.state.principal = principal
    request.state.key_id, request.state.key_secret = principal.key_id, secret
    return principal
