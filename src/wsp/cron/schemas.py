"""What the API takes and says of cron jobs."""

from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from wsp.cron.expression import parse
from wsp.cron.models import CronJob
from wsp.rest.bodies import ChangeBody, RequestBody, left_out
from wsp.rest.fields import Domain, Email, Name, Owner, Timestamp, not_blank, rfc3339

MAX_COMMAND_CHARS = 8192
MAX_EXPRESSION_CHARS = 200


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    return value


def _expression(value: str) -> str:
    parse(value)
    return value.strip()


Command = Annotated[
    str,
    Field(
        title="Command",
        min_length=1,
        max_length=MAX_COMMAND_CHARS,
        description="Run by `/bin/sh -c` in the owner's home folder",
        examples=["/usr/bin/php /home/admin/cron.php"],
    ),
    AfterValidator(not_blank),
    AfterValidator(_without_nul),
]
JobName = Annotated[Name, Field(title="Name", examples=["nightly"])]
Expression = Annotated[
    str,
    Field(
        title="Cron expression",
        min_length=1,
        max_length=MAX_EXPRESSION_CHARS,
        description="Five fields as in crontab(5), or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`",
        examples=["0 3 * * *"],
    ),
    AfterValidator(not_blank),
    AfterValidator(_expression),
]
Enabled = Annotated[bool, Field(title="Enabled", description="Is it run when it is due?")]
EmailOnComplete = Annotated[
    Email, Field(title="Email on complete", description="Mailed after each run, whatever its outcome; or empty")
]
EmailOnError = Annotated[
    bool, Field(title="Email on error", description="Mail the owner after a failed run, when no address is given")
]


class JobCreate(RequestBody):
    """A new cron job. The fields are checked in this order."""

    command: Command
    name: JobName
    cron_expr: Expression
    domain: Domain = ""
    enabled: Enabled = True
    email_on_complete: EmailOnComplete = ""
    email_on_error: EmailOnError = False
    owner: Owner = left_out()


class JobChange(ChangeBody):
    """Changes to a cron job. A job that is changed or enabled is due from now on, never in arrears."""

    command: Command = left_out()
    name: JobName = left_out()
    cron_expr: Expression = left_out()
    domain: Domain = left_out()
    enabled: Enabled = left_out()
    email_on_complete: EmailOnComplete = left_out()
    email_on_error: EmailOnError = left_out()


class JobOut(BaseModel):
    """A cron job. `next_run_at` is null while it is disabled, and while no scheduler runs."""

    id: Annotated[int, Field(examples=[5])]
    name: Annotated[str, Field(examples=["nightly"])]
    command: Annotated[str, Field(examples=["/usr/bin/php /home/admin/cron.php"])]
    cron_expr: Annotated[str, Field(examples=["0 3 * * *"])]
    enabled: Annotated[bool, Field(examples=[True])]
    owner: Annotated[str, Field(examples=["admin"])]
    last_run_at: Annotated[Timestamp | None, Field(description="When the last finished run started")]
    last_run_ok: Annotated[bool, Field(description="Did that run succeed?")]
    next_run_at: Timestamp | None
    email_on_complete: Annotated[str, Field(examples=["ann@example.com"])]
    email_on_error: bool
    created_at: Timestamp
    updated_at: Timestamp
    domain: Annotated[str, Field(exclude_if=lambda domain: not domain, examples=["example.com"])] = ""

    @classmethod
    def of(cls, job: CronJob, zone: ZoneInfo, *, scheduler_alive: bool) -> Self:
        """A job as answers show it."""
        armed = scheduler_alive and job.enabled and job.armed_revision == job.revision
        return cls(
            id=job.id,
            name=job.name,
            command=job.command,
            cron_expr=job.cron_expr,
            enabled=job.enabled,
            owner=job.owner,
            last_run_at=rfc3339(job.last_run_at, zone) if job.last_run_at else None,
            last_run_ok=job.last_run_ok,
            next_run_at=rfc3339(job.next_run_at, zone) if armed and job.next_run_at else None,
            email_on_complete=job.email_on_complete,
            email_on_error=job.email_on_error,
            created_at=rfc3339(job.created_at, zone),
            updated_at=rfc3339(job.updated_at, zone),
            domain=job.domain,
        )
