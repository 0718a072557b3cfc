"""What the API takes and says of runs."""

from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from wsp.cron.models import JobRun
from wsp.rest.fields import Timestamp, rfc3339


class RunOut(BaseModel):
    """A run of a job: one for every time it was due, also when nothing was started."""

    id: Annotated[int, Field(examples=[17])]
    job_id: Annotated[int, Field(examples=[5])]
    status: Annotated[
        str,
        Field(
            description="`running`, `succeeded`, `failed`, `killed`, `lost` or `skipped`",
            examples=["succeeded"],
        ),
    ]
    ok: bool
    exit_code: Annotated[int | None, Field(description="128 + n when signal n ended the command", examples=[0])]
    trigger: Annotated[str, Field(examples=["schedule"])]
    scheduled_for: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: Annotated[int | None, Field(examples=[1843])]
    output: Annotated[
        str,
        Field(description="Standard output and error together: head and tail when it was long", examples=["done\n"]),
    ]
    output_truncated: Annotated[bool, Field(description="Was something left out of the output?")]
    reason: Annotated[
        str,
        Field(
            description="Why, when the status alone does not say",
            examples=["The last run is still going on"],
            exclude_if=lambda reason: not reason,
        ),
    ] = ""

    @classmethod
    def of(cls, run: JobRun, zone: ZoneInfo) -> Self:
        """A run as answers show it."""
        return cls(
            id=run.id,
            job_id=run.job_id,
            status=run.status,
            ok=run.status == "succeeded",
            exit_code=run.exit_code,
            trigger=run.trigger,
            scheduled_for=rfc3339(run.scheduled_for, zone),
            started_at=rfc3339(run.started_at, zone) if run.started_at else None,
            finished_at=rfc3339(run.finished_at, zone) if run.finished_at else None,
            duration_ms=run.duration_ms,
            output=run.output,
            output_truncated=run.output_truncated,
            reason=run.reason,
        )
