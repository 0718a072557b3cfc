"""The cron process, as a process of its own: how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wsp.cron.server.processes import find_tree
from wsp.cron.server.recovery import run_mark
from wsp.heartbeat import alive

from .schedulers import PROGRAM, YEARLY, Launch, Until, running, schedulers, soon, stop

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

pytestmark = pytest.mark.e2e


class TestStop:
    def test_a_command_that_ends_soon_may_end(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        process = launch()
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="sleep 1; echo done")
        until(lambda: running(jobs, job_id))
        stop(process)
        [run] = jobs.runs(job_id)
        assert (run.status, run.output) == ("succeeded", "done\n")

    def test_one_that_does_not_is_ended_with_its_tree(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        process = launch()
        job_id = jobs.add(
            next_run_at=soon(),
            cron_expr=YEARLY,
            command="trap '' TERM; echo begun; setsid sleep 300 & while :; do sleep 1; done",
        )
        until(lambda: running(jobs, job_id))
        assert stop(process) < 15  # five for the command, two for its tree, and some for a busy machine
        [run] = jobs.runs(job_id)
        assert (run.status, run.exit_code, run.reason) == ("killed", 137, "The scheduler was stopped")
        assert run.output.startswith("begun\n")
        assert find_tree({run_mark(run.runner_id, run.id)}) == set()
        assert jobs.job(job_id).last_run_ok is False

    def test_it_signs_off(self, jobs: JobStore, launch: Launch) -> None:
        stop(launch())
        with jobs.database.reading() as session:
            assert not alive(session, "cron")

    def test_its_supervisor_dies(self, jobs: JobStore, variables: dict[str, str], until: Until, tmp_path: Path) -> None:
        parent_program = (
            "import subprocess, sys, time; "
            f"child = subprocess.Popen([sys.executable, '-c', {PROGRAM.format(supervised=True)!r}]); time.sleep(300)"
        )
        with (tmp_path / "log").open("wb") as log:
            parent = subprocess.Popen([sys.executable, "-c", parent_program], env=variables, stdout=log, stderr=log)
        until(lambda: schedulers(jobs.database))
        parent.kill()
        parent.wait()
        until(lambda: not schedulers(jobs.database))
