"""Whether a run may start, and what becomes of it when it may not: pure, told everything that it has to know."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from wsp.cron.planning.pauses import Pauses
from wsp.cron.planning.rows import JobRow, OpenRun
from wsp.cron.planning.work import Trigger
from wsp.cron.policy import Policy
from wsp.owners import ACTIVE

MOST_WAITING = 100  # runs of one job in the queue of `overlap=queue`

SCHEDULE: Trigger = "schedule"
MISSED: Trigger = "missed"
RETRY: Trigger = "retry"
MANUAL: Trigger = "manual"
PATIENT = (MISSED, RETRY)
"""These wait for the run before them whatever the job's overlap policy: they are the second chance already."""

OWNER_DISABLED = "The owner of this job is disabled"
JOB_DISABLED = "The job was disabled before it could start"
QUEUE_FULL = f"{MOST_WAITING} runs of this job were waiting already"


def deadline_passed(seconds: int) -> str:
    """The reason of a run that came too late for its `start_deadline_seconds`."""
    return f"The deadline has passed: it could not start within {seconds} s"


def bar(
    row: JobRow, policy: Policy, pauses: Pauses, trigger: str, tick: datetime, start_at: datetime, now: datetime
) -> str | None:
    """What stands in the way of a run, whatever other runs there are: a sentence, or None.

    `row` has JOB_COLUMNS; `tick` is when it was due, before any jitter. Somebody who asks for a run gets it while jobs
    are paused, and of a job that is disabled.
    """
    if row.owner_status != ACTIVE:
        return OWNER_DISABLED
    if trigger == MANUAL:
        return None
    if not row.enabled:
        return JOB_DISABLED
    if pauses:
        for instant in (tick, max(start_at, now)) if trigger == SCHEDULE else (max(start_at, now),):
            if reason := pauses.reason_for(row.owner, row.tags, instant):
                return reason
    if policy.start_deadline_seconds and now > start_at + timedelta(seconds=policy.start_deadline_seconds):
        return deadline_passed(policy.start_deadline_seconds)
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a run."""

    step: Literal["go", "wait", "skip"]
    reason: str = ""
    kills: Sequence[int] = ()  # runs that are to be killed for it
    supersedes: Sequence[int] = ()  # runs that wait, and shall not start any more


GO = Verdict("go")
WAIT = Verdict("wait")


def judge(policy: Policy, trigger: str, others: Iterable[OpenRun], now: datetime, service_id: str) -> Verdict:
    """Decide by the job's overlap policy. `others`: its open runs but for this one and those that come after it."""
    if policy.overlap == "allow":
        return GO
    active = [run for run in others if run.is_active(now)]
    waiting = [run for run in others if run.is_waiting(now)]
    patient = trigger in PATIENT
    if not active:
        if any(run.service_id not in ("", service_id) for run in others):
            return WAIT  # another scheduler starts one in a moment
        if not waiting:
            return GO
    if patient:
        return WAIT
    if policy.overlap == "queue":
        return WAIT if len(waiting) < MOST_WAITING else Verdict("skip", QUEUE_FULL)
    if policy.overlap == "replace":
        return Verdict(
            "wait" if active else "go",
            kills=[run.run_id for run in active if not run.is_ending],
            supersedes=[run.run_id for run in waiting if run.trigger not in PATIENT],
        )
    if active:
        return Verdict("skip", f"Run {active[0].run_id} of this job was still going")
    return Verdict("skip", f"Run {waiting[0].run_id} of this job was still waiting to start")
