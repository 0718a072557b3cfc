"""Runs whose scheduler died: nothing stays `running` for ever, and nothing of a lost command goes on unseen."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.cron.models import CronJob, JobRun
from wsp.cron.planner import PlannedRun
from wsp.cron.processes import Process, boot_id, end_tree, start_time
from wsp.cron.records import Result
from wsp.heartbeat import STALE_SECONDS, ServiceRow, node_name

# A machine that cannot reach the database looks dead from here while its commands go on: it gets more time.
OTHER_NODE_STALE_SECONDS = 60.0

# So does a scheduler of this machine whose reports the database does not take, as long as its process is there.
LIVING_PROCESS_STALE_SECONDS = 30.0

SUSPECT_SECONDS = 2.0

GRACE_SECONDS = 1.5

GONE = "The scheduler that ran it was gone before it ended"
LOST_TRACK = "The scheduler could not write down that it was to start, or what came of it"


@dataclass(frozen=True)
class Orphan:
    """A row that says `running`, of which nobody alive takes care."""

    run: PlannedRun
    started_at: datetime | None
    service_id: str
    node: str
    boot_id: str
    process: Process | None

    @property
    def mark(self) -> str:
        """The mark that its command was started with."""
        return run_mark(self.service_id, self.run.run_id)


def run_mark(service_id: str, run_id: int) -> str:
    """What the processes of a run carry in their environment."""
    return f"{service_id}-{run_id}"


def find_orphans(session: Session, now: datetime, *, service_id: str, active: Collection[int]) -> list[Orphan]:
    """Runs of schedulers without a heartbeat, and runs of this one (`service_id`) that are not among its `active`."""
    rows = session.execute(
        select(JobRun, CronJob).join(CronJob).where(JobRun.status == "running").order_by(JobRun.id)
    ).all()
    if all(run.service_id == service_id and run.id in active for run, _ in rows):
        return []
    services = {service.id: service for service in session.scalars(select(ServiceRow).where(ServiceRow.kind == "cron"))}

    def is_orphan(row: JobRun) -> bool:
        if row.service_id == service_id:
            return row.id not in active
        service = services.get(row.service_id)
        if service is None and row.node == node_name():
            return True
        # A report that was forgotten, or signed off, on another machine: be patient all the same.
        heard = service.heartbeat_at if service else row.started_at
        return heard is None or now - heard > timedelta(seconds=_patience(row, service))

    return [_orphan(run, job) for run, job in rows if is_orphan(run)]


def _patience(row: JobRun, service: ServiceRow | None) -> float:
    if row.node != node_name():
        return OTHER_NODE_STALE_SECONDS
    # In a container that was started again, the pid of the dead may well be the own one.
    lives = service is not None and service.pid != os.getpid() and start_time(service.pid) is not None
    return LIVING_PROCESS_STALE_SECONDS if lives else STALE_SECONDS


def _orphan(row: JobRun, job: CronJob) -> Orphan:
    known = row.pid is not None and row.pid_started is not None
    return Orphan(
        run=PlannedRun.of(job, row.id, row.scheduled_for),
        started_at=row.started_at,
        service_id=row.service_id,
        node=row.node,
        boot_id=row.boot_id,
        process=Process(row.pid or 0, row.pid_started or 0) if known else None,
    )


@dataclass
class Suspicion:
    """Remembers since when a run has looked like an orphan. One look is not enough: after the database was away
    for a while, everybody's heartbeat is late, and a run that is being planned is not yet among the active."""

    since: dict[int, float] = field(default_factory=dict)

    def confirmed(self, orphans: Sequence[Orphan], clock: float) -> list[Orphan]:
        """Those that have looked so for SUSPECT_SECONDS of `clock` (monotonic seconds), without a break."""
        self.since = {orphan.run.run_id: self.since.get(orphan.run.run_id, clock) for orphan in orphans}
        return [orphan for orphan in orphans if clock - self.since[orphan.run.run_id] >= SUSPECT_SECONDS]


def end_commands(orphans: Sequence[Orphan]) -> int:
    """End what is left of their commands on this machine. Blocks up to a few seconds. Returns how many processes."""
    here = [orphan for orphan in orphans if orphan.node == node_name() and orphan.boot_id == boot_id()]
    if not here:
        return 0
    leaders = [orphan.process for orphan in here if orphan.process is not None]
    return end_tree({orphan.mark for orphan in here}, leaders, grace=GRACE_SECONDS)


def lost(orphan: Orphan, now: datetime, service_id: str) -> Result:
    """What is recorded for an orphan by this scheduler (`service_id`)."""
    reason = LOST_TRACK if orphan.service_id == service_id else GONE
    return Result(status="lost", started_at=orphan.started_at, finished_at=now, reason=reason)
