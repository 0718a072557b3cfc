"""Anonymous access of domains. A domain belongs to the owner who first configured it."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from wsp import epochs
from wsp.database import insert_into, utc_now
from wsp.errors import NotFound
from wsp.ftp.models import AnonymousAccess
from wsp.owners import require_owner


def get_access(
    session: Session, visible_to: str | None, domain: str, *, owner: str, change: bool = False
) -> AnonymousAccess:
    """The settings of a domain; those of one never configured are off, and would be `owner`'s.

    With `change`, locked until the commit. Raises NotFound when the domain is somebody else's.
    """
    access = session.get(AnonymousAccess, domain, with_for_update=change)
    if access is None:
        return _never_configured(domain, owner)
    if visible_to is not None and access.owner != visible_to:
        raise NotFound("Domain not found")
    return access


def change_access(
    session: Session, visible_to: str | None, domain: str, *, owner: str, changes: dict[str, Any]
) -> AnonymousAccess:
    """Set the named columns. The first change makes the domain `owner`'s; without a change nothing is claimed.

    Raises Invalid when there is no such owner, NotFound when the domain is somebody else's.
    """
    access = get_access(session, visible_to, domain, owner=owner, change=bool(changes))
    if not changes:
        return access
    now = utc_now()
    require_owner(session, owner)
    if access.created_at is None:
        _claim(session, domain, owner, now)
        # Somebody else may have been quicker: then it is theirs, and does not exist for this one.
        access = get_access(session, visible_to, domain, owner=owner, change=True)
    for name, value in changes.items():
        setattr(access, name, value)
    access.updated_at = now
    session.flush()
    epochs.move(session, "ftp")
    return access


def _never_configured(domain: str, owner: str) -> AnonymousAccess:
    columns = AnonymousAccess.__table__.columns
    defaults = {column.name: column.default.arg for column in columns if column.default is not None}
    return AnonymousAccess(domain=domain, owner=owner, **defaults)


def _claim(session: Session, domain: str, owner: str, now: datetime) -> None:
    session.execute(
        insert_into(session, AnonymousAccess)
        .values(domain=domain, owner=owner, created_at=now, updated_at=now)
        .on_conflict_do_nothing()
    )
