"""The schema that this version works on, and the one that a database has. Without Alembic: it is slow to import."""

from sqlalchemy import inspect, text

from wsp.database import Database

REVISION = "0005"
"""The newest migration; a test holds it equal to `alembic/versions`."""


def stored_revision(database: Database) -> str | None:
    """The revision that a database is at, None for an empty one. Raises SQLAlchemyError."""
    with database.reading() as session:
        if not inspect(session.connection()).has_table("alembic_version"):
            return None
        revision: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
        return revision
