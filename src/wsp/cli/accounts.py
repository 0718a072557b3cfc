"""`wsp ftp import` and `wsp ftp export`: accounts from other servers, and to them."""

import json
import os
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from wsp.auth.service import get_user
from wsp.cli.environment import read_settings
from wsp.cli.files import FileArgument, batches, named_owner, read_list, read_text
from wsp.cli.output import print_table
from wsp.cli.store import open_database
from wsp.errors import Invalid, WspError
from wsp.ftp import bulk
from wsp.ftp.purepw import format_line

OURS_ALONE = 0o600
SECRET = "it holds the hashes of passwords: keep it secret"  # noqa: S105 - a sentence


class Format(StrEnum):
    """Which file it is."""

    JSON = "json"
    PURE_FTPD = "pure-ftpd"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="import")(import_accounts)
    app.command(name="export")(export_accounts)


def import_accounts(
    file: FileArgument,
    format: Annotated[Format, typer.Option(help="What `wsp ftp export` writes, or pureftpd.passwd.")] = Format.JSON,
    owner: Annotated[str | None, typer.Option(help="Whose the accounts are that name no owner.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    atomic: Annotated[bool, typer.Option("--atomic", help="Make none when one of them fails.")] = False,
) -> int:
    """Make the accounts of a file, and say of each what became of it. Those that exist stay as they are.

    Example: wsp ftp import /etc/pure-ftpd/pureftpd.passwd --format pure-ftpd --owner ann --dry-run
    """
    text = read_text(file)
    if format is Format.PURE_FTPD:
        if owner is None:
            raise Invalid("Owner is required: say with --owner whose the accounts are to be")
        candidates = bulk.from_purepw(text, owner, PurePosixPath(read_settings(quiet=True).files))
    else:
        candidates = bulk.from_json(read_list(text, file, "accounts"), lambda named: named_owner(named or owner))
    results = []
    with open_database() as database:
        for batch in [candidates] if atomic else batches(candidates):
            prepared = bulk.prepare(batch, dry_run=dry_run)
            with database.transaction() as session:
                results += bulk.import_accounts(session, prepared, dry_run=dry_run, atomic=atomic)
    print_table(
        ("Line", "Account", "", ""),
        ((str(r.line), r.username, r.status.replace("_", " "), r.message) for r in results),
    )
    counts = {status: sum(r.status == status for r in results) for status in ("created", "would_create", "skipped")}
    failed = len(results) - sum(counts.values())
    made = f"{counts['would_create']} would be created" if dry_run else f"{counts['created']} created"
    typer.echo(f"{made}, {counts['skipped']} skipped, {failed} failed", err=True)
    return int(failed > 0)


def export_accounts(
    owner: Annotated[str | None, typer.Option(help="Only the accounts of this owner.")] = None,
    format: Annotated[Format, typer.Option(help="json keeps everything, pure-ftpd what it knows.")] = Format.JSON,
    output: Annotated[Path | None, typer.Option(help="Into this file, for your eyes alone (mode 600).")] = None,
) -> None:
    """Write the accounts as `wsp ftp import` reads them, with the hashes of their passwords: keep that secret.

    Example: wsp ftp export --output accounts.json
    """
    files_root = PurePosixPath(read_settings(quiet=True).files)
    with open_database() as database, database.reading() as session:
        if owner is not None:
            get_user(session, owner)
        accounts = list(bulk.accounts_to_export(session, owner))
    if format is Format.JSON:
        text = json.dumps({"accounts": [bulk.as_json(account) for account in accounts]}, indent=2, ensure_ascii=False)
    else:
        lines = []
        for account in accounts:
            if not account.enabled:
                _warn(f"{account.username} is left out: it is disabled, and pure-ftpd would let it in")
                continue
            entry = format_line(account, files_root)
            lines.append(entry.account["line"])
            for warning in entry.warnings:
                _warn(f"{account.username}: {warning}")
        text = "\n".join(lines)
    if output is None:
        typer.echo(text)
        _warn(SECRET)
    else:
        _write(output, text + "\n")


def _write(file: Path, text: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, OURS_ALONE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            os.fchmod(descriptor, OURS_ALONE)  # it may have been there, with another mode
            opened.write(text)
    except OSError as error:
        raise WspError(f"Cannot write {file}: {error.strerror}") from None


def _warn(sentence: str) -> None:
    typer.echo(f"wsp: warning: {sentence}", err=True)
