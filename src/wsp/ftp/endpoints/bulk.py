"""`/api/v1/ftp/import`: many accounts at once."""

from pathlib import PurePosixPath
from typing import Annotated, Any, get_args

from fastapi import Depends, Request
from pydantic import BaseModel, Field

from wsp.errors import Invalid
from wsp.ftp import bulk
from wsp.ftp.bulk import Candidate, Format, Status
from wsp.ftp.endpoints.parameters import Caller, ftp_router
from wsp.rest.answers import failures
from wsp.rest.bodies import RequestBody, left_out
from wsp.rest.fields import Owner
from wsp.rest.session import Writer
from wsp.rest.state import get_state

MAX_ACCOUNTS = 1000  # some seconds, in which nobody else can write
MAX_PASSWORDS = 500  # to hash; over ten seconds

router = ftp_router()


class ImportBody(RequestBody):
    """Accounts to make: `accounts` with the format `json`, `text` with the format `pure-ftpd`."""

    format: Annotated[Format, Field(title="Format", examples=["json"])] = "json"
    dry_run: Annotated[bool, Field(title="Dry run", description="Only say what would be done")] = False
    atomic: Annotated[bool, Field(title="Atomic", description="Make none when one of them fails")] = False
    accounts: Annotated[
        list[Any],
        Field(
            title="Accounts",
            max_length=MAX_ACCOUNTS,
            description="Each as for the creation of an account",
            examples=[[{"username": "deploy", "password": "S3cure•pass"}]],
        ),
    ] = left_out()
    text: Annotated[
        str,
        Field(
            title="Text",
            description="The content of pure-ftpd's file of virtual users",
            examples=["joe:$6$saltsalt$…:1001:1001:Joe:/home/admin/joe/./::::::::::::"],
        ),
    ] = left_out()
    owner: Owner = left_out()

    def content(self) -> Any:
        """What goes with the format. Raises Invalid when it is missing, or when there is something else."""
        wanted, other = ("accounts", "text") if self.format == "json" else ("text", "accounts")
        if other in self.model_fields_set:
            raise Invalid(f"{other.capitalize()} does not go with the format {self.format}", field=other)
        if wanted not in self.model_fields_set:
            raise Invalid(f"{wanted.capitalize()} is required", field=wanted)
        return getattr(self, wanted)


class LineResult(BaseModel):
    """What became of an account."""

    line: Annotated[int, Field(description="Line of the text, or place in the list, from 1", examples=[1])]
    username: Annotated[str, Field(examples=["admin_deploy"])]
    status: Annotated[Status, Field(examples=["created"])]
    message: Annotated[str, Field(description="Why not, and what of a line could not be kept", examples=[""])]


class ImportReport(BaseModel):
    """What became of all of them. Accounts that exist are `skipped`, and stay as they are."""

    dry_run: bool
    created: Annotated[int, Field(description="Or, on a dry run, how many would be", examples=[1])]
    skipped: Annotated[int, Field(examples=[0])]
    failed: Annotated[int, Field(examples=[0])]
    results: list[LineResult]


def _prepare(body: ImportBody, caller: Caller, request: Request) -> list[Candidate]:
    """Everything that is slow, and so must be done before the transaction begins."""
    content = body.content()
    default = caller.owner_for(body.owner)
    if body.format == "json":
        candidates = bulk.from_json(content, lambda owner: default if owner is None else caller.owner_for(owner))
    else:
        candidates = bulk.from_purepw(content, default, PurePosixPath(get_state(request).settings.files))
    if len(candidates) > MAX_ACCOUNTS:
        raise Invalid(f"At most {MAX_ACCOUNTS} accounts at once: split the file", field="text")
    if not body.dry_run and bulk.passwords(candidates) > MAX_PASSWORDS:
        raise Invalid(
            f"At most {MAX_PASSWORDS} passwords at once: split the list, or send hashes (password_hash)",
            field="accounts",
        )
    return bulk.prepare(candidates, dry_run=body.dry_run)


@router.post("/import", operation_id="importFtpAccounts", summary="Create many FTP accounts", responses=failures(409))
def import_accounts(
    body: ImportBody, candidates: Annotated[list[Candidate], Depends(_prepare)], caller: Caller, session: Writer
) -> ImportReport:
    """Each has a result of its own; those that are not valid do not keep the others from being made."""
    results = bulk.import_accounts(session, candidates, dry_run=body.dry_run, atomic=body.atomic)
    counts = {status: sum(result.status == status for result in results) for status in get_args(Status)}
    return ImportReport(
        dry_run=body.dry_run,
        created=counts["created"] + counts["would_create"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        results=[LineResult(line=r.line, username=r.username, status=r.status, message=r.message) for r in results],
    )
