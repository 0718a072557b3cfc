"""`wsp user`: the owners of accounts and jobs."""

from enum import StrEnum
from typing import Annotated

import typer
from pydantic import Field

from wsp.auth.service import change_user, create_user, list_users, remove_user
from wsp.cli.output import print_json, print_table
from wsp.cli.store import open_database
from wsp.errors import Invalid
from wsp.rest.bodies import RequestBody
from wsp.rest.fields import Email

group = typer.Typer(
    name="user", help="Users: add, list, set, remove.", no_args_is_help=True, rich_help_panel="Administration"
)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group)


class Role(StrEnum):
    """An admin sees and changes what everybody owns, a user what they own themselves."""

    ADMIN = "admin"
    USER = "user"


class Status(StrEnum):
    """A disabled user's keys and FTP accounts do not work."""

    ACTIVE = "active"
    DISABLED = "disabled"


class Contact(RequestBody):
    """How a user is reached, by the rules of the API."""

    email: Annotated[Email, Field(title="Email")]


EmailOption = Annotated[str | None, typer.Option(help="Where mails about their jobs go.")]


@group.command()
def add(
    username: Annotated[str, typer.Argument(help="Lower-case letters, digits and '-'.")],
    email: EmailOption = None,
    role: Annotated[Role, typer.Option(help="What they may see and change.")] = Role.USER,
) -> None:
    """Add a user. They get in with a key: wsp token create USERNAME

    Example: wsp user add anna --email anna@example.com
    """
    with open_database() as database, database.transaction() as session:
        create_user(session, username, email=_checked(email) or "", role=role)
    typer.echo(f"User {username} added")


@group.command(name="list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False) -> None:
    """Show the users.

    Example: wsp user list
    """
    columns = ("username", "email", "role", "status")
    with open_database() as database, database.reading() as session:
        rows = [{column: str(getattr(user, column)) for column in columns} for user in list_users(session)]
    if as_json:
        print_json(rows)
    else:
        print_table(columns, ([row[column] or "-" for column in columns] for row in rows))


@group.command(name="set")
def change(
    username: Annotated[str, typer.Argument(help="Whom to change.")],
    email: EmailOption = None,
    role: Annotated[Role | None, typer.Option(help="What they may see and change.")] = None,
    status: Annotated[Status | None, typer.Option(help="Whether their keys and accounts work.")] = None,
) -> None:
    """Change what is given of a user.

    Example: wsp user set anna --status disabled
    """
    if email is None and role is None and status is None:
        raise Invalid("Nothing to change: give --email, --role or --status")
    with open_database() as database, database.transaction() as session:
        change_user(session, username, email=_checked(email), role=role, status=status)
    typer.echo(f"User {username} changed")


@group.command()
def remove(username: Annotated[str, typer.Argument(help="Whom to remove.")]) -> None:
    """Remove a user who owns no FTP account and no cron job. Keys, webhooks and anonymous access go with them.

    Example: wsp user remove anna
    """
    with open_database() as database, database.transaction() as session:
        remove_user(session, username)
    typer.echo(f"User {username} removed")


def _checked(email: str | None) -> str | None:
    return None if email is None else Contact(email=email).email
