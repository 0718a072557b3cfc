"""`wsp db`: the database schema."""

import typer

from wsp.cli.environment import read_settings
from wsp.cli.store import must_exist
from wsp.database import Database
from wsp.preflight import make_data_dir
from wsp.preparation import migrate
from wsp.revision import REVISION, stored_revision

group = typer.Typer(
    name="db", help="The database schema: upgrade, current.", no_args_is_help=True, rich_help_panel="Administration"
)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group)


@group.command()
def upgrade() -> None:
    """Bring the database to the schema of this version. Makes it when it is missing; harmless when it is current.

    Example: WSP_DATABASE_URL=postgresql://wsp@db/wsp wsp db upgrade
    """
    settings = read_settings()
    make_data_dir(settings.data_dir)
    database = Database(settings.database)
    try:
        before = migrate(database)
        after = stored_revision(database)
    finally:
        database.close()
    typer.echo(f"The database is at {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@group.command()
def current() -> None:
    """Show the revision the database is at, and whether it is the newest.

    Example: wsp db current
    """
    url = read_settings().database
    must_exist(url)
    database = Database(url)
    try:
        revision = stored_revision(database)
    finally:
        database.close()
    state = "current" if revision == REVISION else f"the newest is {REVISION}; run: wsp db upgrade"
    typer.echo(f"{revision or 'empty'} ({state})")
