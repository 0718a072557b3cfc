"""The cron process, as a process of its own: what the API asks it for through the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from wsp.cron.models import JobRun
from wsp.cron.server.processes import find_tree
from wsp.cron.server.recovery import run_mark
from wsp.database import utc_now

from .schedulers import TARDY_SECONDS, YEARLY, Launch, Until, ended, running, soon

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

pytestmark = pytest.mark.e2e


class TestRequest:
    """What the API puts into the database."""

    def request(self, jobs: JobStore, job_id: int) -> int:
        now = utc_now()
        with jobs.database.transaction() as session:
            run = JobRun(job_id=job_id, scheduled_for=now, start_at=now, trigger="manual", status="queued")
            session.add(run)
        return run.id

    def test_for_a_run_starts_it_within_half_a_second(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        job_id = jobs.add(cron_expr=YEARLY, command="date +%s.%N", enabled=False)
        until(lambda: jobs.job(job_id).armed_revision)
        lateness = []
        for _ in range(5):
            begin = time.time()
            run_id = self.request(jobs, job_id)
            until(lambda run_id=run_id: jobs.runs(job_id)[-1].id == run_id and jobs.runs(job_id)[-1].output)
            lateness.append(float(jobs.runs(job_id)[-1].output) - begin)
        assert sorted(lateness)[2] < 0.5, lateness

    @pytest.mark.parametrize("grace", [0, 2])
    def test_for_a_kill_ends_the_whole_tree(self, jobs: JobStore, launch: Launch, until: Until, grace: int) -> None:
        launch()
        stubborn = "trap '' TERM; sleep 301; sleep 302"
        command = f'trap "" TERM; setsid sleep 300 & (setsid sh -c "{stubborn}" &) ; sleep 303; sleep 304'
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command=command, policy={"kill_grace_seconds": grace})
        until(lambda: running(jobs, job_id))
        [run] = jobs.runs(job_id)
        mark = run_mark(run.runner_id, run.id)
        until(lambda: len(find_tree({mark})) >= 4)
        begin = time.monotonic()
        with jobs.database.transaction() as session:
            row = session.get_one(JobRun, run.id)
            row.kill_requested_at, row.kill_reason = utc_now(), "Killed by admin"
        until(lambda: not find_tree({mark}))
        took = time.monotonic() - begin
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.reason) == ("killed", "Killed by admin")
        assert took < grace + TARDY_SECONDS

    def test_for_a_kill_of_what_waits(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch(WSP_CRON_MAX_RUNNING="1")
        busy = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="sleep 60")
        until(lambda: running(jobs, busy))
        job_id = jobs.add(cron_expr=YEARLY, enabled=False)
        run_id = self.request(jobs, job_id)
        with jobs.database.transaction() as session:
            row = session.get_one(JobRun, run_id)
            row.kill_requested_at, row.kill_reason = utc_now(), "Killed by admin"
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.reason, run.started_at) == ("killed", "Killed by admin", None)
