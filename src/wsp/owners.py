"""What FTP and cron need to know of users, without importing how users are kept."""

from sqlalchemy import column, select, table
from sqlalchemy.orm import Session

from wsp.errors import Invalid

# A plain table reference with the columns that matter here: the rest of a user's row belongs to another area.
OWNERS = table("users", column("username"), column("status"), column("email"))
ACTIVE = "active"  # the status of an owner whose logins and jobs work


def require_owner(session: Session, owner: str) -> str:
    """The owner's name, when there is such a user. Raises Invalid."""
    if session.scalar(select(OWNERS.c.username).where(OWNERS.c.username == owner)) is None:
        raise Invalid(f"Owner '{owner}' does not exist", field="owner")
    return owner
