"""`/api/v1/cronjobs/import` and `/export`: many jobs at once."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import AfterValidator, BaseModel, Field

from wsp.auth.dependencies import Principal, caller
from wsp.cron.crontabs import transfer
from wsp.cron.crontabs.transfer import Candidate, Import, Result, Status
from wsp.errors import Invalid
from wsp.rest.answers import failures
from wsp.rest.bodies import RequestBody, left_out
from wsp.rest.fields import Owner, one_line
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer
from wsp.rest.state import get_state

MAX_JOBS = 1000  # a second or two, in which nobody else can write

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]

_CRONTAB = """# wsp: crontab of admin
SHELL=/bin/sh
MAILTO=""
# nightly
# wsp: {"timeout_seconds": 3600}
0 3 * * * /usr/bin/php /home/admin/cron.php
"""
_JOBS = [{"name": "nightly", "command": "/usr/bin/php /home/admin/cron.php", "cron_expr": "0 3 * * *"}]


class JobImport(RequestBody):
    """Jobs to make: those of a `crontab`, or `jobs` as they are exported."""

    crontab: Annotated[
        str,
        Field(
            title="Crontab", description="The content of a crontab(5)", examples=["MAILTO=ops@example.com\n@daily true"]
        ),
    ] = left_out()
    jobs: Annotated[
        list[Any],
        Field(
            title="Jobs",
            max_length=MAX_JOBS,
            description="Each as for the creation of a job, with an `id` where others of them run `after` it",
            examples=[_JOBS],
        ),
    ] = left_out()
    format: Annotated[
        transfer.Kind,
        Field(
            title="Format",
            description="Has the crontab a column for the user (`system`), as /etc/crontab and /etc/cron.d have?",
            examples=["user"],
        ),
    ] = "auto"
    dry_run: Annotated[bool, Field(title="Dry run", description="Only say what would be done")] = False
    atomic: Annotated[bool, Field(title="Atomic", description="Make none when one of them fails")] = False
    on_conflict: Annotated[
        Literal["skip", "replace"],
        Field(
            title="On conflict",
            description="A job that exists stays as it is, or is made all that the file says of it, with defaults for "
            "the rest. It is the same when owner, command, input, expression and time zone are",
            examples=["skip"],
        ),
    ] = "skip"
    owner: Owner = left_out()


class JobImportResult(BaseModel):
    """What became of a job."""

    line: Annotated[int, Field(description="Line of the crontab, or place in the list, from 1", examples=[1])]
    name: Annotated[str, Field(examples=["nightly"])]
    status: Annotated[Status, Field(examples=["created"])]
    job_id: Annotated[int | None, Field(description="The job that was made, or that was there", examples=[5])]
    field: Annotated[str, Field(description="Which field keeps it from being made", examples=["cron_expr"])]
    message: Annotated[
        str, Field(description="Why not, and what of a line could not be kept", examples=["MAILFROM is not kept"])
    ]

    @classmethod
    def of(cls, result: Result) -> "JobImportResult":
        """A result as answers show it."""
        return cls(
            line=result.line,
            name=result.name,
            status=result.status,
            job_id=result.job_id,
            field=result.field,
            message=result.message,
        )


class JobImportReport(BaseModel):
    """What became of all of them. On a dry run: what would have."""

    dry_run: bool
    format: Annotated[transfer.Format, Field(description="What it was taken for", examples=["user"])]
    created: Annotated[int, Field(examples=[1])]
    replaced: Annotated[int, Field(examples=[0])]
    skipped: Annotated[int, Field(examples=[0])]
    failed: Annotated[int, Field(examples=[0])]
    results: list[JobImportResult]


class JobExport(BaseModel):
    """Jobs as `import` takes them. The values of secrets are not among it."""

    jobs: Annotated[list[dict[str, Any]], Field(examples=[[{"id": 5, **_JOBS[0], "enabled": True, "owner": "admin"}]])]


def _prepare(body: JobImport, caller: Caller, request: Request) -> tuple[list[Candidate], transfer.Format]:
    """Everything that can be done before the transaction begins, in which nobody else can write."""
    if ("jobs" in body.model_fields_set) == ("crontab" in body.model_fields_set):
        raise Invalid("Crontab is required, or jobs; not both", field="crontab")
    default = caller.owner_for(body.owner)
    if "jobs" in body.model_fields_set:
        if body.format != "auto":
            raise Invalid("Format is for crontabs", field="format")
        candidates = transfer.from_json(body.jobs, lambda owner: default if owner is None else caller.owner_for(owner))
        return transfer.in_order(candidates), "json"
    owners = {caller.username}
    if caller.is_admin:
        with get_state(request).database.reading() as session:
            owners = transfer.all_owners(session)
    candidates, kind = transfer.from_crontab(body.crontab, body.format, default, owners, most=MAX_JOBS)
    return transfer.in_order(candidates), kind


@router.post("/import", operation_id="importCronJobs", summary="Create many cron jobs", responses=failures(409))
def import_jobs(
    body: JobImport,
    prepared: Annotated[tuple[list[Candidate], transfer.Format], Depends(_prepare)],
    caller: Caller,
    session: Writer,
) -> JobImportReport:
    """Each has a result of its own; those that are not valid do not keep the others from being made."""
    candidates, kind = prepared
    how = Import(
        dry_run=body.dry_run,
        atomic=body.atomic,
        replace=body.on_conflict == "replace",
        by_admin=caller.is_admin,
        ids=transfer.ids_of(candidates),
    )
    results = transfer.import_jobs(session, candidates, how)
    counts = transfer.counted(results)
    return JobImportReport(
        dry_run=body.dry_run,
        format=kind,
        created=counts["created"] + counts["would_create"],
        replaced=counts["replaced"] + counts["would_replace"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        results=[JobImportResult.of(result) for result in results],
    )


@router.get(
    "/export",
    operation_id="exportCronJobs",
    summary="Export cron jobs",
    response_model=JobExport,
    responses={
        200: {
            "description": "A crontab, or JSON",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _CRONTAB}},
        },
    },
)
def export_jobs(
    caller: Caller,
    session: Reader,
    request: Request,
    format: Annotated[Literal["crontab", "json"], Query(description="`json` keeps everything as it is")] = "crontab",
    owner: Annotated[
        str | None, Query(max_length=32, description="Whose (for admins)"), AfterValidator(lambda o: o and one_line(o))
    ] = None,
) -> Response:
    """The jobs of the caller; for admins those of an owner, or of all: then a crontab has a column for the user.

    cron can use the crontab as it is: jobs that it would run at other times, or in another way, are commented out.
    """
    whose = caller.owner_for(owner) if owner or not caller.is_admin else None
    jobs = list(transfer.jobs_to_export(session, whose))
    if format == "json":
        return JSONResponse({"jobs": jobs})
    return PlainTextResponse(transfer.as_crontab(jobs, whose, get_state(request).zone.key))
