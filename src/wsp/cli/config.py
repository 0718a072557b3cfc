"""`wsp config`: the effective settings."""

from typing import Annotated, Any

import typer
from pydantic import SecretStr

from wsp.cli.environment import read_settings
from wsp.cli.output import print_json, print_table
from wsp.settings import Settings, masked_url, variable_name

HIDDEN = "********"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="config", rich_help_panel="Looking")(show_settings)


def show_settings(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show the effective settings, without secrets.

    Example: wsp config --json
    """
    values = effective(read_settings())
    if as_json:
        print_json(values)
        return
    descriptions = {variable_name(name): field.description or "" for name, field in Settings.model_fields.items()}
    print_table(("Setting", "Value", ""), ((name, _text(value), descriptions[name]) for name, value in values.items()))


def effective(settings: Settings) -> dict[str, Any]:
    """Every setting's variable and value, as JSON can hold it. Secrets that are set read `********`."""
    values = settings.model_dump(mode="json")
    values["data_dir"] = str(settings.data_dir.absolute())
    values["files_root"] = str(settings.files)
    values["ftp_passive_ports"] = "-".join(str(port) for port in settings.ftp_passive_ports)
    for name in Settings.model_fields:
        if isinstance(getattr(settings, name), SecretStr):
            values[name] = HIDDEN
    values["database_url"] = masked_url(settings.database)
    return {variable_name(name): values[name] for name in Settings.model_fields}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value)
