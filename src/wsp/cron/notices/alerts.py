"""Who is told of starts and ends of runs: mails and webhooks, written down in the transaction that records them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from statistics import median
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from wsp.cron.models import SUCCEEDED, CronJob, JobRun, Notice
from wsp.cron.notices import mail, outbox
from wsp.cron.notices.mail import Unusual
from wsp.cron.notices.outbox import Kind, Owed
from wsp.cron.planning.work import End, Job, PlannedRun
from wsp.cron.policy import Policy
from wsp.cron.schedule.zones import zone_for
from wsp.owners import OWNERS
from wsp.settings import Settings
from wsp.webhooks.service import Listeners

EVENT_OUTPUT_CHARACTERS = 1000  # of the end of the output, in `run.*` events
USUAL_RUNS = 20  # the newest runs that succeeded, whose median is the usual duration
USUAL_RUNS_NEEDED = 5
UNUSUAL_SECONDS = 1.0  # a smaller difference concerns nobody

FAILING, OVERDUE = "failing", "overdue"  # the alarms of a job


def on_starts(session: Session, settings: Settings, runs: Sequence[PlannedRun], now: datetime) -> None:
    """Tell of runs that were started."""
    listeners = Listeners(session, {run.job.owner for run in runs})
    for run in runs:
        listeners.tell(run.job.owner, "run.started", partial(_start_data, run, now))
    listeners.write()


def on_ends(session: Session, settings: Settings, ends: Sequence[End], now: datetime) -> None:
    """Tell of runs that are over, skipped ones too. Cheap when nobody wants to know. Call after their rows are set.

    Where the ends do not say how many failures they make, a job's `failures_in_row` is taken to be that after the last.
    """
    listeners = Listeners(session, {end.run.job.owner for end in ends})
    final = [end for end in ends if end.is_last_word]
    jobs = _jobs(session, {end.run.job.id for end in final})
    failures = _failures(final, jobs)
    alarms = {job_id: row.alarm for job_id, row in jobs.items()}
    owed: list[Owed] = []
    for end in ends:
        listeners.tell(end.run.job.owner, f"run.{end.result.status}", partial(_end_data, end))
    for end in final:
        row = jobs.get(end.run.job.id)
        if row is None:
            continue  # deleted meanwhile
        end = _as_of_now(end, row)
        job = end.run.job
        alarm = alarms[job.id]
        alarms[job.id] = "" if end.result.ok else alarm or FAILING
        if alarm and end.result.ok:
            listeners.tell(job.owner, "job.recovered", partial(_recovered_data, end, alarm))
        unusual = _unusual_end(session, end)
        if unusual is not None:
            data = partial(unusual_data, job, end.run.run_id, unusual, running=False)
            listeners.tell(job.owner, "job.unusual", data)
        count = failures.get(end.run.run_id, 0)
        kind = kind_of_mail(job, ok=end.result.ok, failures=count, alarm=alarm) or (unusual and "unusual")
        if kind:
            text = mail.about_end(
                end,
                zone_for(row.timezone, settings.zone),
                settings.public_url,
                failures=count,
                recovered=bool(alarm),
                unusual=unusual,
            )
            recipient = job.email_on_complete or row.email or ""
            owed.append(Owed(job.id, job.name, end.run.run_id, kind, recipient, text, end.result.finished_at))
    _set_alarms(session, jobs, alarms)
    outbox.put(session, settings, owed, now)
    listeners.write()


def kind_of_mail(job: Job, *, ok: bool, failures: int, alarm: str) -> Kind | None:
    """Which mail is owed about a run that is over; None for none.

    `failures`: how many in a row it makes, if it failed. `alarm`: what was wrong with the job before.
    """
    if ok and alarm == OVERDUE:
        return "recovery"  # of an alarm that was raised
    wanted = job.policy.alert_on
    if not wanted:
        return "run" if job.email_on_complete or (job.email_on_error and not ok) else None
    if ok:
        return "recovery" if alarm and "recovery" in wanted else None
    first = "first_failure" in wanted and failures == 1
    nth = "nth_failure" in wanted and failures > 0 and failures % max(1, job.policy.alert_every) == 0
    return "failure" if first or nth else None


def usual_duration(session: Session, job_id: int, *, but: int) -> timedelta | None:
    """The median of the newest runs that succeeded, leaving out run `but`. None: there are too few to tell."""
    durations = session.scalars(
        select(JobRun.duration_ms)
        .where(
            JobRun.job_id == job_id,
            JobRun.status == SUCCEEDED,
            JobRun.duration_ms.is_not(None),
            JobRun.id != but,
        )
        .order_by(JobRun.id.desc())
        .limit(USUAL_RUNS)
    ).all()
    if len(durations) < USUAL_RUNS_NEEDED:
        return None
    return timedelta(milliseconds=float(median(duration or 0 for duration in durations)))


def is_unusual(duration: timedelta, usual: timedelta, factor: float) -> bool:
    """Is a run so much longer or shorter than usual that somebody is to be told?"""
    if abs((duration - usual).total_seconds()) < UNUSUAL_SECONDS:
        return False
    return duration > usual * factor or duration * factor < usual


def told_unusual(session: Session, job_id: int, run_id: int, since: datetime) -> bool:
    """Was a run already said to be unusual, since its start? Lock the job first."""
    query = select(Notice.id).where(
        Notice.job_id == job_id,
        Notice.created_at >= since - timedelta(seconds=1),  # two machines' clocks
        Notice.kind == "unusual",
        Notice.run_id == run_id,
    )
    return session.scalar(query.limit(1)) is not None


def unusual_data(job: Job, run_id: int, unusual: Unusual, *, running: bool) -> dict[str, Any]:
    """What the event says of a run that is much longer or shorter than usual."""
    return {
        "job_id": job.id,
        "name": job.name,
        "run_id": run_id,
        "running": running,
        "duration_ms": round(unusual.duration.total_seconds() * 1000),
        "usual_ms": round(unusual.usual.total_seconds() * 1000),
    }


def _run_data(run: PlannedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "job_id": run.job.id,
        "name": run.job.name,
        "trigger": run.trigger,
        "attempt": run.attempt,
        "cause_run_id": run.cause_run_id,
        "scheduled_for": _time(run.scheduled_for),
    }


def _start_data(run: PlannedRun, now: datetime) -> dict[str, Any]:
    return _run_data(run) | {"started_at": _time(now)}


def _end_data(end: End) -> dict[str, Any]:
    result = end.result
    return _run_data(end.run) | {
        "status": result.status,
        "reason": result.reason,
        "exit_code": result.exit_code,
        "started_at": _time(result.started_at),
        "finished_at": _time(result.finished_at),
        "duration_ms": result.duration_ms,
        "will_retry": end.will_retry,
        "output": mail.tail(result.output, EVENT_OUTPUT_CHARACTERS)[0],
    }


def _recovered_data(end: End, alarm: str) -> dict[str, Any]:
    return {"job_id": end.run.job.id, "name": end.run.job.name, "run_id": end.run.run_id, "after": alarm}


def _time(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(timespec="seconds")


def _jobs(session: Session, job_ids: set[int]) -> dict[int, Row[Any]]:
    """What the jobs' rows say, by id. They are kept from being removed until the commit: mails refer to them."""
    if not job_ids:
        return {}
    query = (
        select(
            *(CronJob.id, CronJob.timezone, CronJob.failures_in_row, CronJob.alarm, OWNERS.c.email),
            *(CronJob.name, CronJob.email_on_complete, CronJob.email_on_error, CronJob.policy, CronJob.updated_at),
        )
        .join(OWNERS, OWNERS.c.username == CronJob.owner)
        .where(CronJob.id.in_(job_ids))
        .order_by(CronJob.id)
        .with_for_update(read=True, key_share=True, of=CronJob)
    )
    return {row.id: row for row in session.execute(query)}


def _as_of_now(end: End, row: Row[Any]) -> End:
    """The end, of the job as its owner wants it now: who is told what may have been changed since the run began."""
    if row.updated_at == end.run.job.updated_at:
        return end
    names = {name: getattr(row, name) for name in ("name", "email_on_complete", "email_on_error", "updated_at")}
    job = replace(end.run.job, policy=Policy.of(row.policy), **names)
    return replace(end, run=replace(end.run, job=job))


def _failures(ends: Sequence[End], jobs: dict[int, Row[Any]]) -> dict[int, int]:
    """How many failures in a row each failed run makes, by run."""
    left = Counter(end.run.job.id for end in ends)
    made = {}
    for end in ends:
        left[end.run.job.id] -= 1
        row = jobs.get(end.run.job.id)
        if row is not None and not end.result.ok:
            # Ends that do not say it are of runs that never started: there is no success among them.
            counted_back = max(1, row.failures_in_row - left[end.run.job.id])
            made[end.run.run_id] = counted_back if end.failures is None else end.failures
    return made


def _unusual_end(session: Session, end: End) -> Unusual | None:
    """How unusually long or short a run was that succeeded. None: it was not, nobody asked, or it was told already."""
    factor, run, result = end.run.job.policy.alert_duration_factor, end.run, end.result
    if factor <= 1 or not result.ok or result.duration_ms is None:
        return None
    usual = usual_duration(session, run.job.id, but=run.run_id)
    duration = timedelta(milliseconds=result.duration_ms)
    if usual is None or not is_unusual(duration, usual, factor):
        return None
    if result.started_at and told_unusual(session, run.job.id, run.run_id, result.started_at):
        return None
    return Unusual(duration, usual)


def _set_alarms(session: Session, jobs: dict[int, Row[Any]], alarms: dict[int, str]) -> None:
    changed: dict[str, list[int]] = defaultdict(list)
    for job_id, row in jobs.items():
        if alarms[job_id] != row.alarm:
            changed[alarms[job_id]].append(job_id)
    for alarm, job_ids in changed.items():
        session.execute(
            update(CronJob).where(CronJob.id.in_(job_ids)).values(alarm=alarm),
            execution_options={"synchronize_session": False},
        )
