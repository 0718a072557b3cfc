"""`wsp token`: API keys."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from wsp.auth.models import ApiKey
from wsp.auth.schemas import MAX_EXPIRES_IN_DAYS, KeyRequest
from wsp.auth.service import get_user, issue_key, list_keys, list_users, revoke_key
from wsp.cli.environment import read_settings
from wsp.cli.output import print_json, print_table
from wsp.cli.store import open_database

group = typer.Typer(
    name="token", help="API keys: create, list, revoke.", no_args_is_help=True, rich_help_panel="Administration"
)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group)


class Permission(StrEnum):
    """What a key may be allowed; `read` is every GET."""

    ALL = "all"
    READ = "read"
    FTP = "ftp"
    CRON = "cron"


@group.command()
def create(
    user: Annotated[str, typer.Argument(help="Whose key it is.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "Command line",
    permission: Annotated[list[Permission] | None, typer.Option(help="Once for each; all when not given.")] = None,
    ip: Annotated[list[str] | None, typer.Option(help="Address or network it works from; any when not given.")] = None,
    expires_in: Annotated[int, typer.Option(min=0, max=MAX_EXPIRES_IN_DAYS, help="Days it works; 0 = for ever.")] = 0,
) -> None:
    """Make a key and print it, this once.

    Example: KEY=$(wsp token create admin --name backup --permission ftp --ip 203.0.113.0/24 --expires-in 90)
    """
    asked = KeyRequest(
        name=name,
        permissions=[wanted.value for wanted in permission or [Permission.ALL]],
        ip_whitelist=ip or [],
        expires_in=expires_in,
    )
    with open_database() as database, database.transaction() as session:
        _, secret = issue_key(session, get_user(session, user), **asked.model_dump())
    typer.echo(secret)


@group.command(name="list")
def list_all(
    user: Annotated[str | None, typer.Argument(help="Only the keys of this user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show the keys, without their secrets.

    Example: wsp token list admin
    """
    zone = read_settings(quiet=True).zone
    with open_database() as database, database.reading() as session:
        owners = {owner.id: owner.username for owner in list_users(session)}
        keys = list_keys(session, None if user is None else get_user(session, user))
        rows = [_described(key, owners[key.user_id], zone) for key in keys]
    if as_json:
        print_json(rows)
        return
    columns = ("id", "user", "name", "key_prefix", "permissions", "ip_whitelist", "last_used", "expires_at")
    print_table([column.replace("_", " ") for column in columns], ([_text(row[c]) for c in columns] for row in rows))


@group.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of `wsp token list`.")]) -> None:
    """Remove a key. It stops working at once.

    Example: wsp token revoke e24ff6f1754c2d9a
    """
    with open_database() as database, database.transaction() as session:
        revoke_key(session, None, key_id)
    typer.echo(f"API key {key_id} revoked")


def _described(key: ApiKey, owner: str, zone: ZoneInfo) -> dict[str, object]:
    def local(instant: datetime | None) -> str | None:
        return None if instant is None else instant.astimezone(zone).isoformat(timespec="seconds")

    return {
        "id": key.id,
        "user": owner,
        "name": key.name,
        "key_prefix": key.key_prefix,
        "permissions": key.permissions,
        "ip_whitelist": key.ip_whitelist,
        "last_used": local(key.last_used_at),
        "created_at": local(key.created_at),
        "expires_at": local(key.expires_at),
        "enabled": key.enabled,
    }


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value or "-")
