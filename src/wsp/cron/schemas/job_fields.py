"""Field rules of cron jobs, as named types with a description and an example."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wsp.cron.schedule.expression import REBOOT, parse
from wsp.cron.schedule.zones import MAX_ZONE_CHARS, check_zone
from wsp.cron.service import MAX_JOB_ID
from wsp.rest.fields import Email, Name, not_blank, one_line, without_nul

MAX_COMMAND_CHARS = 8192
MAX_EXPRESSION_CHARS = 200
MAX_DESCRIPTION_CHARS = 2000
MAX_TAGS = 20
MAX_PARENTS = 20

_TAG = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def _expression(value: str) -> str:
    if not value.strip():
        return ""
    return REBOOT if parse(value).at_reboot else value.strip()


def _text(value: str) -> str:
    lines = value.replace("\r\n", "\n").split("\n")
    return "\n".join(one_line(line.replace("\t", "    ")) for line in lines)


def _tag(value: str) -> str:
    if not _TAG.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '.', '-' and '_'")
    return value


Command = Annotated[
    str,
    Field(
        title="Command",
        min_length=1,
        max_length=MAX_COMMAND_CHARS,
        description="Run by `/bin/sh -c`, or by `shell`, in the owner's home folder, or in `working_dir`",
        examples=["/usr/bin/php /home/admin/cron.php"],
    ),
    AfterValidator(not_blank),
    AfterValidator(without_nul),
]
JobName = Annotated[Name, Field(title="Name", examples=["nightly"])]
Expression = Annotated[
    str,
    Field(
        title="Cron expression",
        max_length=MAX_EXPRESSION_CHARS,
        description="Five fields as in crontab(5), a sixth for seconds; `H` in a field for a value of the job's own; "
        "or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`, `@reboot`. "
        "Empty, or left out, for a job that runs `after` others only",
        examples=["0 3 * * *"],
    ),
    AfterValidator(_expression),
]
NewExpression = Annotated[Expression, AfterValidator(not_blank)]
Timezone = Annotated[
    str,
    Field(
        title="Timezone",
        max_length=MAX_ZONE_CHARS,
        description="The IANA time zone of the expression; empty for the server's",
        examples=["Europe/Berlin"],
    ),
    AfterValidator(one_line),
    AfterValidator(check_zone),
]
Enabled = Annotated[bool, Field(title="Enabled", description="Is it run when it is due?")]
EmailOnComplete = Annotated[
    Email, Field(title="Email on complete", description="Mailed after each run, whatever its outcome; or empty")
]
EmailOnError = Annotated[
    bool, Field(title="Email on error", description="Mail the owner after a failed run, when no address is given")
]
Description = Annotated[
    str,
    Field(
        title="Description",
        max_length=MAX_DESCRIPTION_CHARS,
        description="What the job is for; may have several lines",
        examples=["Rebuilds the search index of the shop"],
    ),
    AfterValidator(_text),
]
Tag = Annotated[str, AfterValidator(_tag)]
Tags = Annotated[
    list[Tag],
    Field(
        title="Tags",
        max_length=MAX_TAGS,
        description="Words to find jobs by, and for maintenance windows: letters, digits, `.`, `-`, `_`",
        examples=[["backup", "db"]],
    ),
    AfterValidator(lambda tags: list(dict.fromkeys(tags))),
]
Condition = Literal["success", "failure", "any"]


class After(BaseModel):
    """A job that another one runs after, and on which outcome of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    job_id: Annotated[int, Field(ge=1, le=MAX_JOB_ID, examples=[3])]
    on: Annotated[
        Condition, Field(description="The last word on a run, when retries are over", examples=["success"])
    ] = "success"


def _parents(parents: list[After]) -> list[After]:
    ids = [parent.job_id for parent in parents]
    twice = next((job_id for job_id in ids if ids.count(job_id) > 1), None)
    if twice is not None:
        raise ValueError(f"After: job {twice} is named twice")
    return parents


Parents = Annotated[
    list[After],
    Field(
        title="After",
        max_length=MAX_PARENTS,
        description="Jobs of the same owner; each end of one of them, with the outcome `on`, starts a run of this job. "
        "An empty list lifts the links",
        examples=[[{"job_id": 3, "on": "success"}]],
    ),
    AfterValidator(_parents),
]
