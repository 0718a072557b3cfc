"""What a run's end brings about: another attempt, and the jobs that run after this one."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from wsp.cron.bulk import insert_runs
from wsp.cron.models import FAILED, LOST, QUEUED, TIMED_OUT, Follows
from wsp.cron.policy import Policy
from wsp.cron.rows import JOBS, RUNS
from wsp.cron.work import End, PlannedRun, Result

LONGEST_DELAY_SECONDS = 86400.0  # that a delay grows to, however often it is doubled

MICROSECOND = timedelta(microseconds=1)

AFTER, RETRY = "after", "retry"


def will_retry(run: PlannedRun, result: Result) -> bool:
    """Does another attempt follow? Not after a run that was killed or skipped: somebody wanted that."""
    policy = run.job.policy
    if result.status in (FAILED, TIMED_OUT):
        return run.attempt <= policy.retries
    if result.status == LOST and policy.on_lost == "retry":
        return run.attempt <= max(policy.retries, 1)
    return False


def delay_before(policy: Policy, attempt: int) -> float:
    """Seconds between the end of this attempt (the first is 1) and the next one."""
    delay = float(policy.retry_delay_seconds)
    longest = max(LONGEST_DELAY_SECONDS, delay)
    for _ in range(attempt - 1):
        delay *= policy.retry_backoff
        if not 0 < delay < longest:
            break
    return min(delay, longest)


def follow_ups(session: Session, ends: Sequence[End], now: datetime) -> None:
    """Insert the runs that these ends bring about, in the transaction that records them. They wait in the queue.

    Doing it twice for one end does no harm.
    """
    wanted = [_retry(end) for end in ends if end.will_retry]
    last_words = [end for end in ends if end.is_last_word]
    if last_words:
        wanted += _followers(session, last_words, now)
    _insert(session, wanted)


def _retry(end: End) -> dict[str, Any]:
    delay = delay_before(end.run.job.policy, end.run.attempt)
    finished_at = end.result.finished_at
    return _row(end, end.run.job.id, RETRY, finished_at + timedelta(seconds=delay), end.run.attempt + 1)


def _followers(session: Session, ends: Sequence[End], now: datetime) -> list[dict[str, Any]]:
    parents = {end.run.job.id for end in ends}
    found: dict[int, list[tuple[int, str]]] = {}
    for some in (sorted(parents)[start : start + 500] for start in range(0, len(parents), 500)):
        query = (
            select(Follows.after_job_id, Follows.job_id, Follows.condition)
            .join(JOBS, JOBS.c.id == Follows.job_id)
            .where(Follows.after_job_id.in_(some), JOBS.c.enabled)
            .order_by(Follows.job_id)
            .with_for_update(of=JOBS, read=True, key_share=True)  # not deleted before its run is inserted
        )
        for parent, follower, condition in session.execute(query):
            found.setdefault(parent, []).append((follower, condition))
    return [
        _row(end, follower, AFTER, now, 1)
        for end in ends
        for follower, condition in found.get(end.run.job.id, ())
        if condition in ("any", "success" if end.result.ok else "failure")
    ]


def _row(end: End, job_id: int, trigger: str, start_at: datetime, attempt: int) -> dict[str, Any]:
    scheduled_for = end.result.finished_at
    # Whole seconds are for ticks.
    return {
        "job_id": job_id,
        "scheduled_for": scheduled_for if scheduled_for.microsecond else scheduled_for + MICROSECOND,
        "start_at": start_at,
        "trigger": trigger,
        "status": QUEUED,
        "cause_run_id": end.run.run_id,
        "attempt": attempt,
    }


def _insert(session: Session, rows: list[dict[str, Any]]) -> None:
    """Insert runs, a microsecond later where there is one already: but not when that is the same one."""
    while rows:
        inserted = {(row.job_id, row.scheduled_for) for row in insert_runs(session, rows)}
        rest = []
        for row in rows:
            place = row["job_id"], row["scheduled_for"]
            if place in inserted:
                inserted.remove(place)  # it is one row's: a second one with this time is still to come
            else:
                rest.append(row)
        if not rest:
            return
        there = session.execute(
            select(RUNS.c.job_id, RUNS.c.cause_run_id, RUNS.c.trigger, RUNS.c.scheduled_for).where(
                tuple_(RUNS.c.job_id, RUNS.c.scheduled_for).in_([(row["job_id"], row["scheduled_for"]) for row in rest])
            )
        )
        same = {tuple(row) for row in there}
        rows = [
            {**row, "scheduled_for": _later(row["scheduled_for"])}
            for row in rest
            if (row["job_id"], row["cause_run_id"], row["trigger"], row["scheduled_for"]) not in same
        ]


def _later(instant: datetime) -> datetime:
    following = instant + MICROSECOND
    return following if following.microsecond else following + MICROSECOND
