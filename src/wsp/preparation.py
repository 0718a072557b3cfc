"""The database before the server starts: its schema current, and somebody in it who can get in."""

from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.errors import StartupError
from wsp.firststart import make_admin
from wsp.revision import REVISION, stored_revision
from wsp.settings import Settings


def prepare(settings: Settings) -> str | None:
    """Migrate, and on the first start make the admin. Returns the admin's new key, None on later starts.

    Raises StartupError.
    """
    database = Database(settings.database)
    try:
        migrate(database)
        return make_admin(database, settings.data_dir)
    except SQLAlchemyError as error:
        raise _unreachable(error) from None
    except OSError as error:
        raise StartupError(f"WSP_DATA_DIR: cannot write {error.filename} ({error.strerror})") from None
    finally:
        database.close()


def check(settings: Settings) -> None:
    """Raise StartupError unless the database is there, with the schema of this version."""
    database = Database(settings.database)
    try:
        check_schema(database)
    finally:
        database.close()


def migrate(database: Database) -> str | None:
    """Bring the schema up to date. Returns the revision it was at before, None for an empty store.

    Raises StartupError when the store is out of reach, or newer than this version.
    """
    try:
        current = stored_revision(database)
        if current != REVISION:
            from wsp import schema  # with Alembic, which most starts have no use for

            if current is not None and not schema.knows(current):
                raise StartupError(
                    f"The database is at schema {current}, which this version of wsp does not know; "
                    "install the version that made it"
                )
            schema.upgrade(database)
        return current
    except SQLAlchemyError as error:
        raise _unreachable(error) from None


def check_schema(database: Database) -> None:
    """Raise StartupError unless the schema is the one of this version."""
    try:
        current = stored_revision(database)
    except SQLAlchemyError as error:
        raise _unreachable(error) from None
    if current != REVISION:
        raise StartupError("The database schema is not the one of this version; run: wsp db upgrade")


def _unreachable(error: SQLAlchemyError) -> StartupError:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return StartupError(f"WSP_DATABASE_URL: cannot use the database: {reason}")
