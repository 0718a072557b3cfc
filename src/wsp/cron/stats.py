"""How a job has been doing: figures over its runs of some days."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from wsp.cron.models import FAILED, KILLED, LOST, OPEN, SUCCEEDED, TIMED_OUT, JobRun

MAX_RUNS = 100_000  # looked at; of a job that has more, the newest
LAST_FAILURES = 10

FAILURES = (FAILED, TIMED_OUT, KILLED, LOST)
"""What counts as a failure. A skipped run is neither a success nor a failure."""


@dataclass
class Figures:
    """Figures over a set of runs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=list)  # of runs that succeeded, in ms
    lateness: list[int] = field(default_factory=list)  # of runs that were started, in ms

    def add(self, status: str, duration_ms: int | None, late_ms: int | None) -> None:
        """Take one run in."""
        self.outcomes[status] += 1
        if status == SUCCEEDED and duration_ms is not None:
            self.durations.append(duration_ms)
        if late_ms is not None:
            self.lateness.append(late_ms)

    @property
    def failed(self) -> int:
        """How many ended in another way than well."""
        return sum(self.outcomes[status] for status in FAILURES)

    @property
    def success_rate(self) -> float | None:
        """The part of the runs that ended well, of those that were started and are over; None when there are none."""
        ended = self.outcomes[SUCCEEDED] + self.failed
        return round(self.outcomes[SUCCEEDED] / ended, 4) if ended else None


@dataclass
class Stats:
    """What is known of a job's runs since an instant."""

    since: datetime
    complete: bool  # else there were more than MAX_RUNS runs, and `since` is where the figures begin
    all: Figures
    by_day: dict[date, Figures]  # on the clock of a zone; days without a run are not in it
    last_failures: Sequence[JobRun]


def percentile(values: Sequence[int], percent: int) -> int | None:
    """The nearest-rank percentile (1 to 100), None of nothing."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[rank - 1]


def of_job(session: Session, job_id: int, now: datetime, *, days: int, zone: ZoneInfo) -> Stats:
    """The figures of the last `days` days, today included, with days as they are on the clock of `zone`."""
    midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    since = (midnight - timedelta(days=days - 1)).replace(tzinfo=zone)
    of_the_job = JobRun.job_id == job_id, JobRun.scheduled_for >= since, JobRun.scheduled_for <= now
    rows = session.execute(
        select(JobRun.scheduled_for, JobRun.start_at, JobRun.started_at, JobRun.status, JobRun.duration_ms)
        .where(*of_the_job, JobRun.status.not_in(OPEN))
        .order_by(JobRun.scheduled_for.desc())
        .limit(MAX_RUNS + 1)
    ).all()
    complete = len(rows) <= MAX_RUNS
    everything, by_day = Figures(), dict[date, Figures]()
    for scheduled_for, start_at, started_at, status, duration_ms in rows[:MAX_RUNS]:
        due = start_at or scheduled_for
        late_ms = None if started_at is None else max(0, round((started_at - due) / timedelta(milliseconds=1)))
        day = by_day.setdefault(scheduled_for.astimezone(zone).date(), Figures())
        for figures in (everything, day):
            figures.add(status, duration_ms, late_ms)
    failures = session.scalars(
        select(JobRun)
        .where(*of_the_job, JobRun.status.in_(FAILURES))
        .options(defer(JobRun.output), defer(JobRun.output_frames))
        .order_by(JobRun.scheduled_for.desc(), JobRun.id.desc())
        .limit(LAST_FAILURES)
    ).all()
    return Stats(
        since=since if complete else rows[MAX_RUNS - 1].scheduled_for,
        complete=complete,
        all=everything,
        by_day=dict(sorted(by_day.items(), reverse=True)),
        last_failures=failures,
    )
