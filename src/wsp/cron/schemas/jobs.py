"""What the API takes and says of cron jobs."""

from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, model_validator

from wsp.cron.models import CronJob
from wsp.cron.planning.rows import JobRow
from wsp.cron.policy import DEFAULT, Policy
from wsp.cron.schemas.job_fields import (
    Command,
    Description,
    EmailOnComplete,
    EmailOnError,
    Enabled,
    Expression,
    JobName,
    NewExpression,
    Parents,
    Tag,
    Tags,
    Timezone,
)
from wsp.cron.schemas.policy_fields import (
    AlertDurationFactor,
    AlertEvery,
    AlertOnField,
    CpuSeconds,
    Env,
    ExpectEvery,
    GraceSeconds,
    JitterSeconds,
    KeepDays,
    KeepRuns,
    KillGraceSeconds,
    MaxOutputBytes,
    MaxProcesses,
    MemoryMb,
    MissedField,
    Nice,
    OnLostField,
    OverlapField,
    Retries,
    RetryBackoff,
    RetryDelaySeconds,
    Shell,
    StartDeadlineSeconds,
    Stdin,
    TimeoutSeconds,
    WorkingDir,
)
from wsp.cron.service import JobPage
from wsp.cron.surroundings import Surroundings
from wsp.cron.tags import tags_of
from wsp.cron.variables import shown_variables
from wsp.rest.bodies import ChangeBody, left_out
from wsp.rest.fields import Domain, Owner, Timestamp, rfc3339
from wsp.rest.lists import ParametersWithDomain, documented, reader_of


class _Basics(ChangeBody):
    domain: Domain = left_out()
    enabled: Enabled = left_out()
    email_on_complete: EmailOnComplete = left_out()
    email_on_error: EmailOnError = left_out()
    timezone: Timezone = left_out()
    description: Description = left_out()
    tags: Tags = left_out()
    after: Parents = left_out()


class PolicyFields(ChangeBody):
    """The policies of a job, as far as a request names them. What is left out of a new job holds its default."""

    overlap: OverlapField = left_out()
    timeout_seconds: TimeoutSeconds = left_out()
    kill_grace_seconds: KillGraceSeconds = left_out()
    retries: Retries = left_out()
    retry_delay_seconds: RetryDelaySeconds = left_out()
    retry_backoff: RetryBackoff = left_out()
    missed: MissedField = left_out()
    start_deadline_seconds: StartDeadlineSeconds = left_out()
    jitter_seconds: JitterSeconds = left_out()
    on_lost: OnLostField = left_out()
    max_output_bytes: MaxOutputBytes = left_out()
    keep_runs: KeepRuns = left_out()
    keep_days: KeepDays = left_out()
    env: Env = left_out()
    working_dir: WorkingDir = left_out()
    stdin: Stdin = left_out()
    shell: Shell = left_out()
    memory_mb: MemoryMb = left_out()
    cpu_seconds: CpuSeconds = left_out()
    max_processes: MaxProcesses = left_out()
    nice: Nice = left_out()
    alert_on: AlertOnField = left_out()
    alert_every: AlertEvery = left_out()
    expect_every: ExpectEvery = left_out()
    grace_seconds: GraceSeconds = left_out()
    alert_duration_factor: AlertDurationFactor = left_out()


class JobFields(PolicyFields, _Basics):
    """What a new job and a change of one have in common, but for what is checked first."""

    def changes(self) -> dict[str, Any]:
        """What the request named, as `wsp.cron.service` takes it."""
        named = self.named()
        named.pop("owner", None)
        if "after" in named:
            named["after"] = {parent.job_id: parent.on for parent in self.after}
        return named


class _NewJob(ChangeBody):
    """What every new job has: what is checked before all else, in this order."""

    command: Command
    name: JobName
    cron_expr: NewExpression = left_out()


class _ChangedJob(ChangeBody):
    command: Command = left_out()
    name: JobName = left_out()
    cron_expr: Expression = left_out()


class JobCreate(JobFields, _NewJob):
    """A new cron job. `cron_expr` may be left out of a job that runs `after` others."""

    owner: Owner = left_out()

    @model_validator(mode="before")
    @classmethod
    def _needs_an_expression(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        expression = data.get("cron_expr", "")
        if isinstance(expression, str) and not expression.strip():
            data = {name: value for name, value in data.items() if name != "cron_expr"}
            return data if data.get("after") else {**data, "cron_expr": ""}  # what is wrong with that has to be said
        return data


class JobChange(JobFields, _ChangedJob):
    """Changes to a cron job. A job that is changed or enabled is due from now on, never in arrears."""


class AfterOut(BaseModel):
    """A job that this one runs after, and on which outcome of it."""

    job_id: Annotated[int, Field(examples=[3])]
    on: Annotated[str, Field(description="`success`, `failure` or `any`", examples=["success"])]


class SecretOut(BaseModel):
    """A variable whose value is not shown."""

    secret: Annotated[bool, Field(examples=[True])] = True


def _policy(name: str, *examples: Any) -> Any:
    """A policy in an answer: left out as long as it holds its default."""
    default = getattr(DEFAULT, name)
    return Field(exclude_if=lambda value: value == default, examples=list(examples))


def _when_set(*examples: Any) -> Any:
    """The same for what is unset by default."""
    return Field(exclude_if=lambda value: not value, examples=list(examples))


class JobOut(BaseModel):
    """A cron job. What comes behind `updated_at` is there when it differs from its default."""

    id: Annotated[int, Field(examples=[5])]
    name: Annotated[str, Field(examples=["nightly"])]
    command: Annotated[str, Field(examples=["/usr/bin/php /home/admin/cron.php"])]
    cron_expr: Annotated[str, Field(examples=["0 3 * * *"])]
    enabled: Annotated[bool, Field(examples=[True])]
    owner: Annotated[str, Field(examples=["admin"])]
    last_run_at: Annotated[Timestamp | None, Field(description="When the last finished run started")]
    last_run_ok: Annotated[bool, Field(description="Did that run succeed?")]
    next_run_at: Annotated[
        Timestamp | None,
        Field(
            description="The next tick. Null when there is none that would start the command: the job or its owner is "
            "disabled, it has no times of its own, is held up then by a pause or by maintenance, or no scheduler runs"
        ),
    ]
    email_on_complete: Annotated[str, Field(examples=["ann@example.com"])]
    email_on_error: bool
    created_at: Timestamp
    updated_at: Timestamp
    domain: Annotated[str, _when_set("example.com")] = ""
    timezone: Annotated[str, _when_set("Europe/Berlin")] = ""
    description: Annotated[str, _when_set("Rebuilds the search index of the shop")] = ""
    tags: Annotated[list[str], _when_set(["backup", "db"])] = Field(default=[])
    after: Annotated[list[AfterOut], _when_set([{"job_id": 3, "on": "success"}])] = Field(default=[])
    paused: Annotated[bool, _when_set(True)] = False
    overlap: Annotated[str, _policy("overlap", "queue")] = DEFAULT.overlap
    timeout_seconds: Annotated[int, _policy("timeout_seconds", 3600)] = DEFAULT.timeout_seconds
    kill_grace_seconds: Annotated[int, _policy("kill_grace_seconds", 30)] = DEFAULT.kill_grace_seconds
    retries: Annotated[int, _policy("retries", 3)] = DEFAULT.retries
    retry_delay_seconds: Annotated[int, _policy("retry_delay_seconds", 30)] = DEFAULT.retry_delay_seconds
    retry_backoff: Annotated[float, _policy("retry_backoff", 1.5)] = DEFAULT.retry_backoff
    missed: Annotated[str, _policy("missed", "run_all")] = DEFAULT.missed
    start_deadline_seconds: Annotated[int, _policy("start_deadline_seconds", 600)] = DEFAULT.start_deadline_seconds
    jitter_seconds: Annotated[int, _policy("jitter_seconds", 60)] = DEFAULT.jitter_seconds
    on_lost: Annotated[str, _policy("on_lost", "retry")] = DEFAULT.on_lost
    max_output_bytes: Annotated[int, _policy("max_output_bytes", 1048576)] = DEFAULT.max_output_bytes
    keep_runs: Annotated[int, _policy("keep_runs", 100)] = DEFAULT.keep_runs
    keep_days: Annotated[int, _policy("keep_days", 90)] = DEFAULT.keep_days
    env: Annotated[
        dict[str, str | SecretOut], _when_set({"LANG": "C.UTF-8", "API_TOKEN": {"secret": True}})
    ] = Field(default={})  # fmt: skip
    working_dir: Annotated[str, _policy("working_dir", "sites/blog")] = DEFAULT.working_dir
    stdin: Annotated[str, _policy("stdin", "yes\n")] = DEFAULT.stdin
    shell: Annotated[str, _policy("shell", "/bin/bash")] = DEFAULT.shell
    memory_mb: Annotated[int, _policy("memory_mb", 512)] = DEFAULT.memory_mb
    cpu_seconds: Annotated[int, _policy("cpu_seconds", 600)] = DEFAULT.cpu_seconds
    max_processes: Annotated[int, _policy("max_processes", 50)] = DEFAULT.max_processes
    nice: Annotated[int, _policy("nice", 10)] = DEFAULT.nice
    alert_on: Annotated[list[str], _when_set(["first_failure", "recovery"])] = Field(default=[])
    alert_every: Annotated[int, _policy("alert_every", 5)] = DEFAULT.alert_every
    expect_every: Annotated[int, _policy("expect_every", 86400)] = DEFAULT.expect_every
    grace_seconds: Annotated[int, _policy("grace_seconds", 3600)] = DEFAULT.grace_seconds
    alert_duration_factor: Annotated[float, _policy("alert_duration_factor", 3.0)] = DEFAULT.alert_duration_factor

    @classmethod
    def of(cls, job: CronJob, zone: ZoneInfo, around: Surroundings) -> Self:
        """A job as answers show it."""
        return cls(**shown_job(job, zone, around))


def shown_job(job: JobRow, zone: ZoneInfo, around: Surroundings) -> dict[str, Any]:
    """The same as plain data, which is what JobOut becomes in the end: a long list has no time for more."""
    next_run_at = around.next_run_at(job)
    shown = {
        "id": job.id,
        "name": job.name,
        "command": job.command,
        "cron_expr": job.cron_expr,
        "enabled": job.enabled,
        "owner": job.owner,
        "last_run_at": rfc3339(job.last_run_at, zone) if job.last_run_at else None,
        "last_run_ok": job.last_run_ok,
        "next_run_at": rfc3339(next_run_at, zone) if next_run_at else None,
        "email_on_complete": job.email_on_complete,
        "email_on_error": job.email_on_error,
        "created_at": rfc3339(job.created_at, zone),
        "updated_at": rfc3339(job.updated_at, zone),
    }
    for name in ("domain", "timezone", "description"):
        if value := getattr(job, name):
            shown[name] = value
    if job.tags:
        shown["tags"] = tags_of(job)
    if parents := around.parents(job):
        shown["after"] = [{"job_id": job_id, "on": on} for job_id, on in parents]
    if around.paused(job):
        shown["paused"] = True
    return shown | _shown_policy(job) if job.policy else shown


def _shown_policy(job: JobRow) -> dict[str, Any]:
    """What differs from the defaults, in the order of the answer."""
    shown: dict[str, Any] = {}
    for name in _SHOWN_POLICIES:
        if name == "env" and "env" in job.policy:
            shown[name] = shown_variables(Policy.of(job.policy))
        elif name in job.policy:
            shown[name] = job.policy[name]
    return shown


_SHOWN_POLICIES = tuple(name for name in JobOut.model_fields if name in PolicyFields.model_fields)


class _JobParameters(ParametersWithDomain):
    """What the list of jobs takes."""

    tag: Annotated[Tag, Field(description="Only those with this tag")] = left_out()
    enabled: Annotated[bool, Field(description="Only those that are enabled, or only those that are not")] = left_out()


JobQuery = Annotated[JobPage, reader_of(_JobParameters, JobPage)]
JOB_PARAMETERS = documented(_JobParameters)
"""For `openapi_extra` of an endpoint that takes a `JobQuery`."""
