"""Whatever happens, in whatever order: every due tick of an enabled job has exactly one row.

A scheduler is played here, on a clock that is moved by hand: it looks now and then, is down for a while, and the clock
is set; meanwhile jobs are switched, changed and paused, and runs end in every way.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.planning import queue
from wsp.cron.planning.work import PlannedRun
from wsp.cron.schedule.expression import parse
from wsp.cron.schedule.zones import zone_of

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

# Never a whole second: a change at the very instant of a tick may be taken for before or after it.
START = datetime(2026, 10, 24, 23, 58, 30, 137, tzinfo=UTC)  # summer time ends in Europe soon after
EXPRESSIONS = (
    "* * * * *",
    "*/5 * * * *",
    "*/7 0-3 * * *",
    "30 2 * * *",
    "H * * * *",
    "*/3 * * * * 30",
    "0 1,2,3 * * *",
)
ZONES = ("", "Europe/Berlin", "Asia/Kathmandu")
STEPS = 70
FAR_BACK = 4000  # minutes: longer than all that happens
AHEAD = 0.5
SECOND = timedelta(seconds=1)

Interval = tuple[datetime, datetime]


class Play:
    """A scheduler, its owners and its clock."""

    def __init__(self, seed: int, jobs: JobStore, planning: Planning) -> None:
        self.random = random.Random(seed)
        self.jobs, self.planning = jobs, planning
        self.now = START
        self.is_up = True
        self.touched: set[int] = set()  # jobs that were changed since the scheduler went down
        self.at_hand: dict[int, PlannedRun] = {}
        self.running: dict[int, PlannedRun] = {}
        self.on_since: dict[int, datetime | None] = {}
        self.times: dict[int, tuple[str, str]] = {}
        self.expected: dict[int, set[datetime]] = {}
        for expression in (EXPRESSIONS[0], *self.random.choices(EXPRESSIONS, k=5)):
            self.add(expression)

    def add(self, expression: str) -> None:
        policy: dict[str, Any] = {
            "overlap": self.random.choice(("skip", "queue", "allow", "replace")),
            "missed": self.random.choice(("skip", "run_once", "run_all")),
            "retries": self.random.choice((0, 2)),
            "jitter_seconds": self.random.choice((0, 0, 45)),
            "start_deadline_seconds": self.random.choice((0, 0, 120)),
        }
        times = expression, self.random.choice(ZONES)
        job_id = self.jobs.add(
            cron_expr=times[0], timezone=times[1], policy=policy, due_from=self.now, updated_at=self.now
        )
        self.times[job_id], self.on_since[job_id], self.expected[job_id] = times, self.now, set()

    # What is true, told from the outside.

    def account(self, job_id: int) -> None:
        """The ticks that the job has had until now while it was enabled are expected."""
        since = self.on_since[job_id]
        if since is not None:
            expression, zone = self.times[job_id]
            schedule = parse(expression, job_id)
            ticks = schedule.due_between(since, self.now, zone_of(zone, self.planning.zone), 10_000)
            self.expected[job_id] |= set(ticks)
            # A clock that was set back a little shows times again for which there is nothing left to decide.
            self.on_since[job_id] = max(since, self.now)

    # What the scheduler does.

    def look(self) -> None:
        while self.planning.arm(self.now):
            pass
        self.heed()
        places = self.random.choice((0, 2, 50))
        for _ in range(1000):
            batch = self.planning.plan(self.now, ahead=AHEAD, places=max(0, places - len(self.at_hand)), limit=3)
            self.at_hand |= {run.run_id: run for run in batch.runs}
            if not batch.jobs:
                break
        else:
            pytest.fail("planning does not come to an end")
        self.at_hand |= {run.run_id: run for run in self.planning.claim_queued(self.now, limit=5).runs}
        self.start_due()
        for run_id, _, _ in self.kills():
            if run_id in self.running:
                self.end(run_id, "killed")

    def kills(self) -> list[tuple[int, str, int | None]]:
        with self.jobs.database.transaction() as session:
            queue.cancel_killed(session, self.now)
            return queue.kills_wanted(session, self.planning.claim.service_id)

    def heed(self) -> None:
        """Something was committed: read again what is at hand."""
        ahead = [run for run in self.at_hand.values() if run.start_at > self.now]
        for run_id, run in self.planning.refresh(ahead).items():
            if run is None:
                del self.at_hand[run_id]
            else:
                self.at_hand[run_id] = run

    def start_due(self) -> None:
        due = sorted(
            (run for run in self.at_hand.values() if run.start_at <= self.now),
            key=lambda run: (run.start_at, run.run_id),
        )
        to_settle = []
        for run in due:
            del self.at_hand[run.run_id]
            busy = any(other.job.id == run.job.id for other in self.running.values())
            if run.contended or (busy and run.job.policy.overlap != "allow"):
                to_settle.append(run)
            else:
                self.start(run)
        for run in self.planning.settle(to_settle, self.now).runs:
            self.start(run)

    def start(self, run: PlannedRun) -> None:
        others = [other for other in self.running.values() if other.job.id == run.job.id]
        assert not others or run.job.policy.overlap == "allow", "two runs of one job at once"
        self.planning.start(run)
        self.running[run.run_id] = run

    def end(self, run_id: int, status: Any) -> None:
        self.planning.end(self.running.pop(run_id), status, self.now)

    # What happens to it.

    def pass_time(self) -> None:
        self.now += timedelta(milliseconds=self.random.choice((200, 700, 5_000, 40_000, 180_000)))
        if self.is_up:
            self.start_due()

    def end_some(self) -> None:
        for run_id in [run_id for run_id in self.running if self.random.random() < 0.6]:
            self.end(run_id, self.random.choice(("succeeded", "failed", "timed_out", "lost")))

    def go_down_or_up(self) -> None:
        if self.is_up:
            self.now += timedelta(seconds=1)
            self.start_due()
            self.is_up = False
            self.touched = set()
            return
        self.now += timedelta(seconds=self.random.choice((5, 1_000, 4_000)))
        self.is_up = True
        self.look()

    def switch(self) -> None:
        job_id = self.random.choice(list(self.times))
        if not self.is_up and job_id in self.touched:
            return  # that it was on and off while nobody looked is not to be known
        self.account(job_id)
        on = self.on_since[job_id] is None
        self.on_since[job_id] = self.now if on else None
        self.jobs.switch(job_id, self.now, enabled=on)
        self.touched.add(job_id)
        if self.is_up:
            self.look()

    def change(self) -> None:
        """Another expression; what was due by the old one has been decided."""
        if not self.is_up:
            return
        self.look()
        job_id = self.random.choice(list(self.times))
        self.account(job_id)
        expression, zone = self.times[job_id] = self.random.choice(EXPRESSIONS), self.random.choice(ZONES)
        if self.on_since[job_id] is not None:
            self.on_since[job_id] = self.now
        self.jobs.switch(job_id, self.now, cron_expr=expression, timezone=zone)
        self.look()

    def rename(self) -> None:
        self.jobs.change(self.random.choice(list(self.times)), name="another", updated_at=self.now)

    def pause_or_resume(self) -> None:
        if self.random.random() < 0.5:
            self.jobs.resume()
            self.jobs.pause(paused_at=self.now)
        else:
            self.jobs.resume()
        self.jobs.set_owner(status=self.random.choice(("active", "active", "disabled")))
        if self.is_up:
            self.heed()

    def set_clock(self) -> None:
        if not self.is_up:
            return
        self.look()
        self.now += timedelta(seconds=AHEAD)  # what was claimed ahead has had its time
        self.start_due()
        for job_id in self.times:
            self.account(job_id)
        minutes = self.random.choice((-FAR_BACK, -20, -1, 30, 60))
        self.now += timedelta(minutes=minutes)
        if minutes == -FAR_BACK:  # a correction: jobs follow the new time
            self.on_since = {job_id: self.now if since else None for job_id, since in self.on_since.items()}
        last: int | None = 0
        while last is not None:
            last = self.planning.rearm(self.now, "clock", after_id=last, limit=2)

    def run(self) -> None:
        doings = [self.pass_time] * 4 + [self.end_some, self.look_if_up, self.switch, self.change]
        doings += [self.rename, self.pause_or_resume, self.go_down_or_up, self.set_clock]
        for _ in range(STEPS):
            self.random.choice(doings)()
            self.look_if_up()
        if not self.is_up:
            self.go_down_or_up()
        self.now += timedelta(seconds=1)
        self.look()
        for job_id in self.times:
            self.account(job_id)

    def look_if_up(self) -> None:
        if self.is_up and self.random.random() < 0.7:
            self.look()


@pytest.mark.parametrize("seed", range(8))
def test_every_due_tick_of_an_enabled_job_has_exactly_one_row(jobs: JobStore, planning: Planning, seed: int) -> None:
    play = Play(seed, jobs, planning)
    play.run()
    total = 0
    for job_id, expected in play.expected.items():
        rows = [row for row in jobs.runs(job_id) if row.trigger in ("schedule", "missed")]
        ticks = [row.scheduled_for for row in rows if not play.now < row.scheduled_for <= play.now + SECOND]
        assert sorted(expected - set(ticks)) == [], f"no row for these ticks of job {job_id} {play.times[job_id]}"
        assert sorted(set(ticks) - expected) == [], f"rows for what was no tick of job {job_id} {play.times[job_id]}"
        assert len(ticks) == len(set(ticks))
        assert all(row.reason for row in rows if row.status == "skipped")
        total += len(ticks)
    assert total > 3
