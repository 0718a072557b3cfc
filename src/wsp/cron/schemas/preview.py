"""What the API takes and says of an expression that is tried out."""

from datetime import UTC, datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from wsp.cron.schedule.expression import MAX_CHARACTERS, parse
from wsp.cron.schedule.preview import NextRun, Preview
from wsp.cron.schedule.zones import MAX_ZONE_CHARS, check_zone
from wsp.cron.service import MAX_JOB_ID
from wsp.rest.bodies import RequestBody
from wsp.rest.fields import instant, not_blank, rfc3339

MAX_RUNS = 100
# The hundredth 29 February on a Sunday after that is still in a year that a date can have.
LATEST_START = datetime(2200, 1, 1, tzinfo=UTC)


def _expression(value: str) -> str:
    parse(value)
    return value.strip()


def _instant(value: str | None) -> str | None:
    if value is not None and instant(value) >= LATEST_START:
        raise ValueError(f"must be before {LATEST_START:%Y-%m-%d}")
    return value


class PreviewRequest(RequestBody):
    """An expression to be tried out. Nothing is stored."""

    cron_expr: Annotated[
        str,
        Field(
            title="Cron expression",
            min_length=1,
            max_length=MAX_CHARACTERS,
            description="As a job's: five fields, six with the second as the last, or a macro",
            examples=["30 2 * * *"],
        ),
        AfterValidator(not_blank),
        AfterValidator(_expression),
    ]
    timezone: Annotated[
        str,
        Field(
            title="Timezone",
            max_length=MAX_ZONE_CHARS,
            description="An IANA name; the server's zone when it is empty",
            examples=["Europe/Berlin"],
        ),
        AfterValidator(check_zone),
    ] = ""
    count: Annotated[int, Field(title="Count", ge=1, le=MAX_RUNS, description="How many runs to show")] = 20
    start: Annotated[
        str | None,
        Field(
            alias="from",
            title="From",
            description="Runs later than this time are shown (RFC 3339); later than now when it is left out",
            examples=["2026-03-28T12:00:00+01:00"],
        ),
        AfterValidator(_instant),
    ] = None
    job_id: Annotated[
        int | None,
        Field(title="Job id", ge=1, le=MAX_JOB_ID, description="The job whose values of `H` to show", examples=[5]),
    ] = None

    def starts_at(self, now: datetime) -> datetime:
        """The instant after which runs are wanted."""
        return now if self.start is None else instant(self.start)


class NextRunOut(BaseModel):
    """A time at which it will be due."""

    at: Annotated[
        str,
        Field(
            description="RFC 3339, in the time zone of the expression; whole seconds",
            examples=["2026-03-29T03:00:00+02:00"],
        ),
    ]
    moved: Annotated[bool, Field(description="Is this another time than the expression's, which the clock jumps over?")]
    note: Annotated[
        str,
        Field(
            description="What a change of the clocks has to do with it",
            examples=["The clock jumps over 02:30 that day: it runs right after the gap"],
            exclude_if=lambda note: not note,
        ),
    ] = ""

    @classmethod
    def of(cls, run: NextRun, zone: ZoneInfo) -> Self:
        """A run as answers show it."""
        return cls(at=rfc3339(run.at, zone), moved=run.moved, note=run.note)


class PreviewOut(BaseModel):
    """When it will be due, in words and in times, and what to think of before it is used."""

    cron_expr: Annotated[str, Field(examples=["30 2 * * *"])]
    timezone: Annotated[str, Field(examples=["Europe/Berlin"])]
    description: Annotated[str, Field(description="A sentence in English", examples=["At 02:30"])]
    next_runs: Annotated[list[NextRunOut], Field(description="None for `@reboot`")]
    warnings: Annotated[
        list[str],
        Field(
            description="Sentences about what may not be meant, and about changes of the clocks within a year",
            examples=[["On 2026-03-29 the clock jumps from 02:00 to 03:00: what is due there is run once, at 03:00"]],
        ),
    ]

    @classmethod
    def of(cls, text: str, zone: ZoneInfo, shown: Preview) -> Self:
        """A preview as answers show it."""
        return cls(
            cron_expr=text,
            timezone=zone.key,
            description=shown.description,
            next_runs=[NextRunOut.of(run, zone) for run in shown.next_runs],
            warnings=shown.warnings,
        )
