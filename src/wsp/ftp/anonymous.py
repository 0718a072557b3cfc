"""Anonymous access of domains. A domain belongs to the owner who first configured it."""

from typing import Any

from sqlalchemy.orm import Session

from wsp import epochs
from wsp.database import utc_now
from wsp.errors import NotFound
from wsp.ftp.models import AnonymousAccess
from wsp.owners import require_owner


def get_access(session: Session, visible_to: str | None, domain: str, *, owner: str) -> AnonymousAccess:
    """The settings of a domain; those of one never configured are off, and would be `owner`'s.

    Raises NotFound when the domain is somebody else's.
    """
    access = session.get(AnonymousAccess, domain)
    if access is None:
        return AnonymousAccess(domain=domain, owner=owner, enabled=False, allow_upload=False)
    if visible_to is not None and access.owner != visible_to:
        raise NotFound("Domain not found")
    return access


def change_access(
    session: Session, visible_to: str | None, domain: str, *, owner: str, changes: dict[str, Any]
) -> AnonymousAccess:
    """Set the named columns. The first change makes the domain `owner`'s; without a change nothing is claimed.

    Raises Invalid when there is no such owner, NotFound when the domain is somebody else's.
    """
    access = get_access(session, visible_to, domain, owner=owner)
    if not changes:
        return access
    now = utc_now()
    require_owner(session, owner)
    if access.created_at is None:
        access.owner = owner
        access.created_at = now
        session.add(access)
    for name, value in changes.items():
        setattr(access, name, value)
    access.updated_at = now
    session.flush()
    epochs.move(session, "ftp")
    return access
