"""What FTP and cron need to know of users, without importing how users are kept."""

from sqlalchemy import column, select, table
from sqlalchemy.orm import Session

from wsp.errors import Invalid

_users = table("users", column("username"))


def require_owner(session: Session, owner: str) -> str:
    """The owner's name, when there is such a user. Raises Invalid."""
    if session.scalar(select(_users.c.username).where(_users.c.username == owner)) is None:
        raise Invalid(f"Owner '{owner}' does not exist", field="owner")
    return owner
