"""The database that commands work on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from wsp.cli.environment import read_settings
from wsp.database import Database
from wsp.errors import StartupError
from wsp.preparation import check_schema


@contextmanager
def open_database() -> Iterator[Database]:
    """The database of a server that was started before. Raises StartupError when it is missing or not up to date."""
    url = read_settings().database
    must_exist(url)
    database = Database(url)
    try:
        check_schema(database)
        yield database
    finally:
        database.close()


def must_exist(url: str) -> None:
    """Raise StartupError for an SQLite file that is missing: SQLite would make an empty one of whatever it is given."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise StartupError("There is no database yet; start the server with `wsp serve`, or run: wsp db upgrade")
