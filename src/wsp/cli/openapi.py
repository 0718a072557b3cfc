"""`wsp openapi`: the document that describes the API."""

import typer

from wsp.cli.environment import read_settings
from wsp.cli.output import print_json
from wsp.database import Database


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="openapi", rich_help_panel="Looking")(show_document)


def show_document() -> None:
    """Print the OpenAPI document of the REST API. No server has to run.

    Example: wsp openapi > openapi.json
    """
    from wsp.web.app import create_app  # FastAPI: a second that no other command should wait

    database = Database("sqlite:///unused.db")  # never connected to, so never made
    try:
        print_json(create_app(read_settings(), database).openapi())
    finally:
        database.close()
