"""What the API takes and says of runs that are asked for, pauses and maintenance windows."""

from datetime import datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from wsp.cron.models import JobRun, Maintenance, Pause
from wsp.cron.schedule.expression import parse
from wsp.cron.schemas.job_fields import MAX_EXPRESSION_CHARS, Tag, Timezone
from wsp.cron.schemas.runs import RunOut
from wsp.database import utc_now
from wsp.errors import Invalid
from wsp.rest.answers import Total
from wsp.rest.bodies import ChangeBody, left_out
from wsp.rest.fields import Owner, Timestamp, instant, one_line, rfc3339

MAX_REASON_CHARS = 200
MAX_WINDOW_SECONDS = 31 * 86400
EVERYBODY = "*"

Reason = Annotated[
    str,
    Field(
        title="Reason",
        max_length=MAX_REASON_CHARS,
        description="Shown with the runs that are skipped for it",
        examples=["The database moves"],
    ),
    AfterValidator(one_line),
]


def _window_expression(value: str) -> str:
    if parse(value).at_reboot:
        raise ValueError("must be times of the clock, not @reboot")
    return value.strip()


def _instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "no string")
    return instant(value)


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    Field(description="RFC 3339 with an offset", examples=["2026-05-18T22:00:00+07:00"]),
]


class _RunId(BaseModel):
    run_id: Annotated[int, Field(description="The same as `id`", examples=[17])]


class RequestedRun(RunOut, _RunId):
    """A run that was asked for, and is started in a moment."""

    @classmethod
    def requested(cls, run: JobRun, zone: ZoneInfo) -> Self:
        """The run as the answer to the request shows it."""
        return cls(**dict(RunOut.of(run, zone)), run_id=run.id)


class PauseBody(ChangeBody):
    """A pause of all jobs of an owner."""

    reason: Reason = left_out()
    until: Annotated[
        Instant | None, Field(title="Until", description="When the pause ends by itself (RFC 3339); null = never")
    ] = left_out()
    owner: Owner = left_out()

    @model_validator(mode="after")
    def _ahead(self) -> Self:
        if self.until is not None and self.until <= utc_now():
            raise Invalid("Until must be in the future", field="until")
        return self


class ResumeBody(ChangeBody):
    """Whose jobs go on."""

    owner: Owner = left_out()


class PauseOut(BaseModel):
    """Whether the jobs of an owner are paused."""

    owner: Annotated[str, Field(examples=["admin"])]
    paused: Annotated[bool, Field(examples=[True])]
    paused_at: Timestamp | None
    until: Annotated[Timestamp | None, Field(description="When it ends by itself")]
    reason: Annotated[str, Field(examples=["The database moves"])]

    @classmethod
    def of(cls, owner: str, pause: Pause | None, zone: ZoneInfo) -> Self:
        """The pause of an owner, or that there is none, as answers show it."""
        if pause is None:
            return cls(owner=owner, paused=False, paused_at=None, until=None, reason="")
        return cls(
            owner=owner,
            paused=True,
            paused_at=rfc3339(pause.paused_at, zone),
            until=rfc3339(pause.until, zone) if pause.until else None,
            reason=pause.reason,
        )


class WindowCreate(ChangeBody):
    """A new maintenance window: `starts_at` and `ends_at`, or `cron_expr` and `duration_seconds`."""

    starts_at: Annotated[Instant, Field(title="Starts at")] = left_out()
    ends_at: Annotated[Instant, Field(title="Ends at")] = left_out()
    cron_expr: Annotated[
        str,
        Field(
            title="Cron expression",
            min_length=1,
            max_length=MAX_EXPRESSION_CHARS,
            description="Each time that this is due, a window begins",
            examples=["0 22 * * sun"],
        ),
        AfterValidator(_window_expression),
    ] = left_out()
    duration_seconds: Annotated[
        int,
        Field(
            title="Duration seconds",
            ge=1,
            le=MAX_WINDOW_SECONDS,
            description="How long a window of `cron_expr` lasts",
            examples=[7200],
        ),
    ] = left_out()
    timezone: Timezone = left_out()
    tag: Annotated[Tag, Field(title="Tag", description="Only for jobs with this tag", examples=["db"])] = left_out()
    reason: Reason = left_out()
    owner: Annotated[
        Owner, Field(description="Whose jobs; `*` for those of all owners. Only an admin may name somebody else")
    ] = left_out()

    @model_validator(mode="after")
    def _once_or_again(self) -> Self:
        once, again = {"starts_at", "ends_at"}, {"cron_expr", "duration_seconds"}
        named = self.model_fields_set
        form = again if named & again else once
        if named & once and named & again:
            raise Invalid(
                "Starts at and ends at cannot be given together with a cron expression and its duration",
                field="starts_at",
            )
        missing = [name for name in ("starts_at", "ends_at", "cron_expr", "duration_seconds") if name in form - named]
        if missing:
            titles = [str(type(self).model_fields[name].title) for name in missing]
            raise Invalid(
                f"{titles[0]} is required" + ("" if named & form else ", or a cron expression with its duration"),
                details=[(name, f"{title} is required") for name, title in zip(missing, titles, strict=True)],
            )
        if form is once:
            self._check_times()
        return self

    def _check_times(self) -> None:
        if self.ends_at <= self.starts_at:
            raise Invalid("Ends at must be later than starts at", field="ends_at")
        if self.ends_at <= utc_now():
            raise Invalid("Ends at must be in the future", field="ends_at")
        if "timezone" in self.model_fields_set:
            raise Invalid("Timezone is for a cron expression: starts at and ends at have offsets", field="timezone")


class WindowOut(BaseModel):
    """A time in which jobs are not started: once, or each time that `cron_expr` is due."""

    id: Annotated[int, Field(examples=[2])]
    owner: Annotated[str, Field(description="`*`: the jobs of all owners", examples=["admin"])]
    starts_at: Timestamp | None
    ends_at: Timestamp | None
    cron_expr: Annotated[str, Field(examples=["0 22 * * sun"])]
    duration_seconds: Annotated[int, Field(examples=[7200])]
    timezone: Annotated[str, Field(examples=["Europe/Berlin"])]
    tag: Annotated[str, Field(description="Only jobs with this tag; empty for all", examples=["db"])]
    reason: Annotated[str, Field(examples=["The database moves"])]
    created_at: Timestamp

    @classmethod
    def of(cls, window: Maintenance, zone: ZoneInfo) -> Self:
        """A window as answers show it."""
        return cls(
            id=window.id,
            owner=EVERYBODY if window.owner is None else window.owner,
            starts_at=rfc3339(window.starts_at, zone) if window.starts_at else None,
            ends_at=rfc3339(window.ends_at, zone) if window.ends_at else None,
            cron_expr=window.cron_expr,
            duration_seconds=window.duration_seconds,
            timezone=window.timezone,
            tag=window.tag,
            reason=window.reason,
            created_at=rfc3339(window.created_at, zone),
        )


class WindowList(BaseModel):
    """Maintenance windows, oldest first."""

    windows: list[WindowOut]
    total: Total
