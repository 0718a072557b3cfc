"""Field rules of a job's policies, as named types with a description and an example. Defaults: `wsp.cron.policy`."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from wsp.cron.policy import AlertOn, Missed, OnLost, Overlap
from wsp.cron.variables import MAX_VARIABLES, parse_variables
from wsp.rest.fields import one_line, without_nul

MAX_PATH_CHARS = 1000
MAX_STDIN_CHARS = 65536
MAX_OUTPUT_BYTES = 16 * 2**20
LEAST_OUTPUT_BYTES = 1024
LEAST_EXPECT_SECONDS = 60
DAY = 86400
YEAR = 366 * DAY


def _folder(value: str) -> str:
    without_nul(one_line(value))
    if ".." in value.split("/"):
        raise ValueError("must not have '..' in it")
    return value


def _shell(value: str) -> str:
    if value and (not re.fullmatch(r"/\S+", one_line(value)) or value.endswith("/")):
        raise ValueError("must be the absolute path of a program, as in /bin/bash, or empty")
    return value


def _output_bytes(value: int) -> int:
    if 0 < value < LEAST_OUTPUT_BYTES:
        raise ValueError(f"must be 0, or at least {LEAST_OUTPUT_BYTES}")
    return value


def _expect(value: int) -> int:
    if 0 < value < LEAST_EXPECT_SECONDS:
        raise ValueError(f"must be 0, or at least {LEAST_EXPECT_SECONDS}")
    return value


def _factor(value: float) -> float:
    if value != 0 and value <= 1:
        raise ValueError("must be 0, or more than 1")
    return value


def _seconds(title: str, most: int, description: str, example: int) -> Any:
    return Field(title=title, ge=0, le=most, description=f"Seconds. {description}", examples=[example])


Env = Annotated[
    dict[str, Any],
    Field(
        title="Env",
        description="Variables for the command. The value of a secret is never shown again, and is masked in the "
        "output; naming it without a value keeps the one that it has. Variables that are not named are dropped",
        examples=[{"LANG": "C.UTF-8", "API_TOKEN": {"value": "s3cret", "secret": True}}],
    ),
    AfterValidator(parse_variables),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_VARIABLES,
            "additionalProperties": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {"value": {"type": "string"}, "secret": {"type": "boolean", "default": False}},
                        "additionalProperties": False,
                    },
                ]
            },
        }
    ),
]
OverlapField = Annotated[
    Overlap,
    Field(
        title="Overlap",
        description="What becomes of a run that is due while another one of the job is going: it is skipped, waits, "
        "runs beside it, or replaces it",
        examples=["queue"],
    ),
]
TimeoutSeconds = Annotated[
    int, _seconds("Timeout seconds", YEAR, "A command that takes longer is ended; 0 = it may take for ever", 3600)
]
KillGraceSeconds = Annotated[
    int, _seconds("Kill grace seconds", 3600, "Between SIGTERM and SIGKILL when a run is ended", 30)
]
Retries = Annotated[
    int, Field(title="Retries", ge=0, le=100, description="Further attempts after a failed one", examples=[3])
]
RetryDelaySeconds = Annotated[
    int, _seconds("Retry delay seconds", 7 * DAY, "From the end of a failed attempt to the next one", 30)
]
RetryBackoff = Annotated[
    float,
    Field(
        title="Retry backoff",
        ge=1,
        le=10,
        allow_inf_nan=False,
        description="Each further delay is so many times the one before",
        examples=[1.5],
    ),
]
MissedField = Annotated[
    Missed,
    Field(
        title="Missed",
        description="What becomes of ticks that were missed while no scheduler ran: none is run, the newest, or all",
        examples=["run_all"],
    ),
]
StartDeadlineSeconds = Annotated[
    int, _seconds("Start deadline seconds", YEAR, "What cannot be started so long after it was due is skipped; 0 = "
                  "no limit", 600)
]  # fmt: skip
JitterSeconds = Annotated[
    int, _seconds("Jitter seconds", DAY, "Each run starts up to so much later than it is due, at random", 60)
]
OnLostField = Annotated[
    OnLost,
    Field(
        title="On lost",
        description="What becomes of a run whose end nobody saw: it has failed, or is run once more",
        examples=["retry"],
    ),
]
MaxOutputBytes = Annotated[
    int,
    Field(
        title="Max output bytes",
        ge=0,
        le=MAX_OUTPUT_BYTES,
        description="Output kept of a run, its head and tail; 0 = as much as the server's setting says",
        examples=[1048576],
    ),
    AfterValidator(_output_bytes),
]
KeepRuns = Annotated[
    int,
    Field(
        title="Keep runs",
        ge=0,
        le=1_000_000,
        description="Runs kept in the log; 0 = as many as the server's setting says",
        examples=[100],
    ),
]
KeepDays = Annotated[
    int,
    Field(
        title="Keep days",
        ge=0,
        le=36500,
        description="Days that runs are kept; 0 = as long as the server's setting says",
        examples=[90],
    ),
]
WorkingDir = Annotated[
    str,
    Field(
        title="Working dir",
        max_length=MAX_PATH_CHARS,
        description="Where the command starts: a folder below the owner's home, or `/home/<owner>/…`; empty for the "
        "home itself. Shown below the home",
        examples=["sites/blog"],
    ),
    AfterValidator(_folder),
]
Stdin = Annotated[
    str,
    Field(
        title="Stdin",
        max_length=MAX_STDIN_CHARS,
        description="What the command reads from its standard input",
        examples=["yes\n"],
    ),
    AfterValidator(without_nul),
]
Shell = Annotated[
    str,
    Field(
        title="Shell",
        max_length=255,
        description="The program that is given the command, with `-c`; empty for `/bin/sh`",
        examples=["/bin/bash"],
    ),
    AfterValidator(_shell),
]
MemoryMb = Annotated[
    int,
    Field(
        title="Memory MB",
        ge=0,
        le=2**24,
        description="MB (2^20 bytes) of address space for each process of the command; 0 = no limit",
        examples=[512],
    ),
]
CpuSeconds = Annotated[
    int, _seconds("CPU seconds", YEAR, "Of processor time for each process of the command; 0 = no limit", 600)
]
MaxProcesses = Annotated[
    int,
    Field(
        title="Max processes",
        ge=0,
        le=2**20,
        description="Processes and threads of the system account that runs it; 0 = no limit",
        examples=[50],
    ),
]
Nice = Annotated[
    int,
    Field(
        title="Nice",
        ge=-20,
        le=19,
        description="How far the command steps back for others; below 0 for admins only",
        examples=[10],
    ),
]
AlertOnField = Annotated[
    list[AlertOn],
    Field(
        title="Alert on",
        max_length=20,
        description="When to mail an alert: the first failure, every `alert_every`th one in a row, the first success "
        "after failures",
        examples=[["first_failure", "recovery"]],
    ),
    AfterValidator(lambda chosen: tuple(dict.fromkeys(chosen))),
]
AlertEvery = Annotated[
    int,
    Field(
        title="Alert every",
        ge=1,
        le=10_000,
        description="Which failures in a row `nth_failure` means: every so many",
        examples=[5],
    ),
]
ExpectEvery = Annotated[
    int,
    _seconds("Expect every", YEAR, "An alarm is raised when it did not succeed for so long and `grace_seconds`; 0 = "
             "not watched, else at least 60", 86400),
    AfterValidator(_expect),
]  # fmt: skip
GraceSeconds = Annotated[int, _seconds("Grace seconds", YEAR, "How much later than `expect_every` is still fine", 3600)]
AlertDurationFactor = Annotated[
    float,
    Field(
        title="Alert duration factor",
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="An alert is raised about a run that takes so many times as long as runs usually do, or so many "
        "times less; 0 = never, else more than 1",
        examples=[3.0],
    ),
    AfterValidator(_factor),
]
