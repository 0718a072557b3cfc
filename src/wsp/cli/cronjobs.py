"""`wsp cron import` and `wsp cron export`: jobs from crontabs, and to them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsp.auth.service import get_user
from wsp.cli.environment import read_settings
from wsp.cli.files import FileArgument, batches, named_owner, read_list, read_text
from wsp.cli.output import print_json, print_table
from wsp.cli.store import open_database
from wsp.cron.crontabs import transfer
from wsp.cron.crontabs.transfer import Candidate, Import
from wsp.database import Database
from wsp.errors import Invalid


class Source(StrEnum):
    """Which file it is."""

    AUTO = "auto"
    USER = "user"
    SYSTEM = "system"
    JSON = "json"


_KINDS: dict[Source, transfer.Kind] = {Source.AUTO: "auto", Source.USER: "user", Source.SYSTEM: "system"}


class Target(StrEnum):
    """Which file it is to be."""

    CRONTAB = "crontab"
    JSON = "json"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="import")(import_jobs)
    app.command(name="export")(export_jobs)


def import_jobs(
    file: FileArgument,
    format: Annotated[
        Source, typer.Option(help="A user's crontab, one of /etc/cron.d with users in it, or JSON.")
    ] = Source.AUTO,
    owner: Annotated[str | None, typer.Option(help="Whose the jobs are that name no owner.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    atomic: Annotated[bool, typer.Option("--atomic", help="Make none when one of them fails.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Make jobs that exist what the file says.")] = False,
) -> int:
    """Make the jobs of a crontab, and say of each what became of it. Those that exist stay as they are.

    Example: crontab -l | wsp cron import - --owner ann --dry-run
    """
    text = read_text(file)
    with open_database() as database:
        candidates = transfer.in_order(_candidates(database, text, file, format, owner))
        how = Import(
            dry_run=dry_run, atomic=atomic, replace=replace, by_admin=True, ids=transfer.ids_of(candidates)
        )  # fmt: skip
        results = []
        for batch in [candidates] if atomic or dry_run else batches(candidates):
            with database.transaction() as session:
                results += transfer.import_jobs(session, batch, how)
    print_table(
        ("Line", "Job", "Id", "", ""),
        (
            (str(r.line), r.name, str(r.job_id or ""), r.status.replace("_", " "), r.message)
            for r in sorted(results, key=lambda result: result.line)
        ),
    )
    counts = transfer.counted(results)
    created, replaced = (counts["would_create"], counts["would_replace"]) if dry_run else (
        counts["created"], counts["replaced"]
    )  # fmt: skip
    would = " would be" if dry_run else ""
    also = f" {replaced}{would} replaced," if replace else ""
    typer.echo(f"{created}{would} created,{also} {counts['skipped']} skipped, {counts['failed']} failed", err=True)
    return int(counts["failed"] > 0)


def export_jobs(
    owner: Annotated[str | None, typer.Option(help="Only the jobs of this owner.")] = None,
    format: Annotated[Target, typer.Option(help="What cron and `wsp cron import` read, or JSON.")] = Target.CRONTAB,
) -> None:
    """Write the jobs as `wsp cron import` reads them: one owner's as their crontab, else one with users in it.

    The values of secrets are not among it. Example: wsp cron export --owner ann > ann.crontab
    """
    zone = read_settings(quiet=True).zone.key
    with open_database() as database, database.reading() as session:
        if owner is not None:
            get_user(session, owner)
        jobs = list(transfer.jobs_to_export(session, owner))
    if format is Target.JSON:
        print_json({"jobs": jobs})
    else:
        typer.echo(transfer.as_crontab(jobs, owner, zone), nl=False)


def _candidates(database: Database, text: str, file: Path, format: Source, owner: str | None) -> list[Candidate]:
    with database.reading() as session:
        if owner is not None:
            get_user(session, owner)
        owners = transfer.all_owners(session)
    if format is Source.JSON or (format is Source.AUTO and text.lstrip().startswith(("{", "["))):
        return transfer.from_json(read_list(text, file, "jobs"), lambda named: named_owner(named or owner))
    if owner is None:
        raise Invalid("Owner is required: say with --owner whose the jobs are to be")
    candidates, _ = transfer.from_crontab(text, _KINDS[format], owner, owners)
    return candidates
