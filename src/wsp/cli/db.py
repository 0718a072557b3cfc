"""`wsp db`: the database schema."""

import typer

from wsp.cli.environment import read_settings
from wsp.database import Database

app = typer.Typer(
    name="db", help="The database schema: upgrade, current.", no_args_is_help=True, rich_help_panel="Administration"
)


@app.command()
def upgrade() -> None:
    """Bring the database to the schema of this version. Makes it when it is missing; harmless when it is current.

    Example: WSP_DATABASE_URL=postgresql://wsp@db/wsp wsp db upgrade
    """
    from wsp import schema  # Alembic is slow to import
    from wsp.preflight import make_data_dir
    from wsp.preparation import migrate

    settings = read_settings()
    make_data_dir(settings.data_dir)
    database = Database(settings.database)
    try:
        before = migrate(database)
        after = schema.current(database)
    finally:
        database.close()
    typer.echo(f"The database is at {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@app.command()
def current() -> None:
    """Show the revision the database is at, and whether it is the newest.

    Example: wsp db current
    """
    from wsp import schema  # Alembic is slow to import
    from wsp.cli.environment import must_exist

    url = read_settings().database
    must_exist(url)
    database = Database(url)
    try:
        revision, newest = schema.current(database), schema.head()
    finally:
        database.close()
    state = "current" if revision == newest else f"the newest is {newest}; run: wsp db upgrade"
    typer.echo(f"{revision or 'empty'} ({state})")
