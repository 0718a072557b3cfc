"""What the API takes and says of runs."""

from datetime import datetime
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from wsp.cron.history.runs import RunPage, RunRow
from wsp.cron.models import ENDED, OPEN, QUEUED, JobRun
from wsp.rest.bodies import RequestBody
from wsp.rest.fields import Timestamp, instant, one_line, rfc3339
from wsp.rest.lists import ShortParameters, documented, reader_of

STATUSES = (*OPEN, *ENDED)
TRIGGERS = ("schedule", "missed", "manual", "retry", "after", "reboot")
MAX_REASON_CHARS = 200
MAX_GRACE_SECONDS = 3600


def _is_default(default: object) -> Any:
    """What has its default is left out of the answer."""
    return lambda value: value == default


class RunOut(BaseModel):
    """A run of a job: one for every time it was due, also when nothing was started."""

    id: Annotated[int, Field(examples=[17])]
    job_id: Annotated[int, Field(examples=[5])]
    status: Annotated[
        str,
        Field(
            description="`queued` or `running`; at its end `succeeded`, `failed`, `timed_out`, `killed`, `lost` or "
            "`skipped`",
            examples=["succeeded"],
        ),
    ]
    ok: bool
    exit_code: Annotated[int | None, Field(description="128 + n when signal n ended the command", examples=[0])]
    trigger: Annotated[
        str,
        Field(
            description="`schedule`, `missed` (late, after a downtime), `manual`, `retry`, `after` (another job's run) "
            "or `reboot` (the start of the cron service)",
            examples=["schedule"],
        ),
    ]
    scheduled_for: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: Annotated[int | None, Field(examples=[1843])]
    output: Annotated[
        str,
        Field(
            description="Standard output and error together, of a long one an excerpt; empty until the run is over, "
            "and with `output=false`",
            examples=["done\n"],
        ),
    ]
    output_truncated: Annotated[bool, Field(description="Is there something that `output` does not show?")]
    reason: Annotated[
        str,
        Field(
            description="Why, when the status alone does not say",
            examples=["The last run is still going on"],
            exclude_if=_is_default(""),
        ),
    ] = ""
    attempt: Annotated[int, Field(description="2 and more: a retry", examples=[2], exclude_if=_is_default(1))] = 1
    cause_run_id: Annotated[
        int | None,
        Field(description="The run that this one retries or follows", examples=[16], exclude_if=_is_default(None)),
    ] = None
    requested_by: Annotated[
        str, Field(description="Who asked for it", examples=["ann"], exclude_if=_is_default(""))
    ] = ""
    start_at: Annotated[
        Timestamp | None,
        Field(description="Of a queued run: it is not started earlier", exclude_if=_is_default(None)),
    ] = None
    cpu_ms: Annotated[
        int | None, Field(description="Processor time of the command", examples=[210], exclude_if=_is_default(None))
    ] = None
    memory_kb: Annotated[
        int | None,
        Field(
            description="The largest memory of one of its processes, in KiB",
            examples=[10240],
            exclude_if=_is_default(None),
        ),
    ] = None
    output_bytes: Annotated[
        int, Field(description="All that it wrote, kept or not", examples=[5], exclude_if=_is_default(0))
    ] = 0
    kill_requested_at: Annotated[
        Timestamp | None, Field(description="When its end was asked for", exclude_if=_is_default(None))
    ] = None
    kill_reason: Annotated[
        str, Field(description="By whom, and why", examples=["Killed by ann"], exclude_if=_is_default(""))
    ] = ""

    @classmethod
    def of(cls, run: JobRun, zone: ZoneInfo) -> Self:
        """A run as answers show it."""
        return cls(**shown_run(run, zone))


_DEFAULTS = {name: field.default for name, field in RunOut.model_fields.items() if not field.is_required()}


def shown_run(run: RunRow, zone: ZoneInfo, *, output: bool = True) -> dict[str, Any]:
    """The same as plain data, which is what RunOut becomes in the end. Without `output` the column is not looked at."""

    def time(value: datetime | None) -> str | None:
        return rfc3339(value, zone) if value else None

    shown = {
        "id": run.id,
        "job_id": run.job_id,
        "status": run.status,
        "ok": run.status == "succeeded",
        "exit_code": run.exit_code,
        "trigger": run.trigger,
        "scheduled_for": rfc3339(run.scheduled_for, zone),
        "started_at": time(run.started_at),
        "finished_at": time(run.finished_at),
        "duration_ms": run.duration_ms,
        "output": run.output if output else "",
        "output_truncated": run.output_truncated,
    }
    more = {
        "reason": run.reason,
        "attempt": run.attempt,
        "cause_run_id": run.cause_run_id,
        "requested_by": run.requested_by,
        "start_at": time(run.start_at) if run.status == QUEUED else None,
        "cpu_ms": run.cpu_ms,
        "memory_kb": run.memory_kb,
        "output_bytes": run.output_bytes,
        "kill_requested_at": time(run.kill_requested_at),
        "kill_reason": run.kill_reason,
    }
    return shown | {name: value for name, value in more.items() if value != _DEFAULTS[name]}


def _statuses(value: str) -> str:
    if not set(value.split(",")) <= set(STATUSES):
        raise ValueError(f"must be one or several of {', '.join(STATUSES)}, with commas between them")
    return value


def _triggers(value: str) -> str:
    if not set(value.split(",")) <= set(TRIGGERS):
        raise ValueError(f"must be one or several of {', '.join(TRIGGERS)}, with commas between them")
    return value


def _time(value: object) -> datetime:
    # In a query string, a "+" that nobody encoded arrives as a space.
    return instant(str(value).strip().replace(" ", "+"))


_Time = Annotated[datetime, BeforeValidator(_time)]


class _RunParameters(ShortParameters):
    status: Annotated[
        str,
        Field(description="Only those with this status; several with commas between them", examples=["failed,lost"]),
        AfterValidator(_statuses),
    ] = ""
    trigger: Annotated[
        str,
        Field(description="Only those with this trigger; several with commas between them", examples=["manual"]),
        AfterValidator(_triggers),
    ] = ""
    since: Annotated[_Time | None, Field(description="Only those that were due then or later (RFC 3339)")] = None
    until: Annotated[_Time | None, Field(description="Only those that were due earlier (RFC 3339)")] = None
    cursor: Annotated[
        str,
        Field(max_length=32, description="Where to go on: what the `Link` header of the part before says"),
        AfterValidator(one_line),
    ] = ""
    output: Annotated[
        bool, Field(description="false: leave the outputs empty, which long lists are shorter without")
    ] = True


RunQuery = Annotated[RunPage, reader_of(_RunParameters, RunPage)]
RUN_PARAMETERS = documented(_RunParameters)


class KillRequest(RequestBody):
    """Why a run is to be ended, and how much time it gets."""

    reason: Annotated[
        str,
        Field(title="Reason", max_length=MAX_REASON_CHARS, description="Shown with the run", examples=["It is stuck"]),
        AfterValidator(one_line),
    ] = ""
    grace_seconds: Annotated[
        int | None,
        Field(
            title="Grace seconds",
            ge=0,
            le=MAX_GRACE_SECONDS,
            description="Between SIGTERM and SIGKILL; the job's `kill_grace_seconds` when left out",
            examples=[5],
        ),
    ] = None
