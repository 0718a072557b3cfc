"""What the endpoints of FTP have in common: their router, their caller, their path parameters."""

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator

from wsp.auth.dependencies import Principal, caller
from wsp.rest.answers import failures
from wsp.rest.fields import Domain, not_blank, one_line
from wsp.rest.routing import API_BASE, Router

Caller = Annotated[Principal, caller("ftp")]
AccountId = Annotated[
    str,
    Path(description="The full user name, `<owner>_<name>`", examples=["admin_deploy"]),
    AfterValidator(one_line),
]
DomainName = Annotated[Domain, Path(examples=["example.com"]), AfterValidator(not_blank)]


def ftp_router() -> Router:
    """A router of `/ftp`; `wsp.ftp.endpoints.ROUTERS` puts them in order."""
    return Router(prefix=f"{API_BASE}/ftp", tags=["FTP accounts"], responses=failures())
