"""`/api/v1/ftp/{domain}/anonymous`."""

from wsp.ftp import anonymous
from wsp.ftp.endpoints.parameters import Caller, DomainName, ftp_router
from wsp.ftp.schemas import AnonymousChange, AnonymousOut
from wsp.rest.answers import failures
from wsp.rest.session import Reader, Writer

router = ftp_router()


@router.get(
    "/{domain}/anonymous",
    operation_id="getAnonymousFtp",
    summary="Show the anonymous FTP of a domain",
    responses=failures(404),
)
def get_anonymous(domain: DomainName, caller: Caller, session: Reader) -> AnonymousOut:
    """A domain never configured has it disabled."""
    access = anonymous.get_access(session, caller.sees_owner, domain, owner=caller.username)
    return AnonymousOut.of(access)


@router.put(
    "/{domain}/anonymous",
    operation_id="changeAnonymousFtp",
    summary="Change the anonymous FTP of a domain",
    responses=failures(404),
)
def change_anonymous(domain: DomainName, body: AnonymousChange, caller: Caller, session: Writer) -> AnonymousOut:
    """Changes what the body names. The first change makes the domain the caller's."""
    changes = body.named()
    owner = caller.owner_for(changes.get("owner"))
    access = anonymous.change_access(session, caller.sees_owner, domain, owner=owner, changes=changes)
    return AnonymousOut.of(access)
