"""What planning, running and reporting hand to one another. No database here."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from wsp.cron.policy import Policy
from wsp.cron.runner.orders import Output

Status = Literal["succeeded", "failed", "timed_out", "killed", "lost", "skipped"]
Trigger = Literal["schedule", "missed", "manual", "retry", "after", "reboot"]


@dataclass(frozen=True)
class Job:
    """What has to be known of a job to run it and to tell of its end."""

    id: int
    owner: str
    name: str
    command: str
    email_on_complete: str
    email_on_error: bool
    policy: Policy
    updated_at: datetime | None = None  # when its owner changed it last: tells that a claimed run is to be read again


@dataclass(frozen=True)
class PlannedRun:
    """A run that has a row."""

    run_id: int
    job: Job
    scheduled_for: datetime
    start_at: datetime
    trigger: Trigger
    attempt: int = 1
    cause_run_id: int | None = None
    contended: bool = False  # another scheduler had a run of this job when this one was claimed


@dataclass(frozen=True)
class Result:
    """The end of a run. `exit_code` is None for a command that never started, or whose end nobody saw."""

    status: Status
    started_at: datetime | None
    finished_at: datetime
    reason: str = ""
    exit_code: int | None = None
    duration_ms: int | None = None
    cpu_ms: int | None = None
    memory_kb: int | None = None
    output: Output = field(default_factory=Output)

    @property
    def ok(self) -> bool:
        """Did the command do what it was asked for?"""
        return self.status == "succeeded"


@dataclass(frozen=True)
class End:
    """A run and what came of it, as those are told who act upon it in the transaction that records it."""

    run: PlannedRun
    result: Result
    will_retry: bool = False  # another attempt follows: not yet the last word
    failures: int | None = None  # of its job in a row, with it; None: the job's row says how many, after the last end

    @property
    def is_last_word(self) -> bool:
        """Is this what came of a tick? A retry that is skipped leaves the failure before it as that."""
        return not self.will_retry and (self.result.status != "skipped" or self.run.trigger == "retry")
