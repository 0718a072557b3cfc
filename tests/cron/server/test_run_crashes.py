"""The cron process, as a process of its own: it dies, its runner dies, its database is away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from sqlalchemy import select

from wsp.cron.models import CronState
from wsp.cron.server.processes import MARK_VARIABLE, boot_id, find_tree
from wsp.cron.server.recovery import GONE, RUNNER_GONE, run_mark
from wsp.cron.server.run import run as run_scheduler
from wsp.database import Database, utc_now
from wsp.errors import StartupError
from wsp.heartbeat import ServiceRow, node_name
from wsp.settings import Settings, load_settings

from .schedulers import SECOND, YEARLY, Launch, Until, commands, ended, noted_runners, runner_of, running, soon, stop

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

pytestmark = pytest.mark.e2e


class TestCrash:
    def test_of_the_scheduler_is_not_noticed_by_commands(
        self, jobs: JobStore, launch: Launch, until: Until, settings: Settings
    ) -> None:
        process = launch()
        command = "echo x >> started; while ! test -e go; do sleep 0.05; done; echo out; echo err >&2; exit 7"
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command=command)
        quick = jobs.add(
            next_run_at=soon(), cron_expr=YEARLY, command="while ! test -e soon; do sleep 0.05; done; exit 5"
        )
        until(lambda: running(jobs, job_id) and running(jobs, quick))
        before = jobs.runs(job_id)[0]
        process.kill()
        process.wait()
        (settings.files / "home/admin/soon").touch()  # one ends while nobody is there to hear it
        launch()
        until(lambda: ended(jobs, quick))
        until(lambda: jobs.runs(job_id)[0].service_id != before.service_id)
        adopted = jobs.runs(job_id)[0]
        assert (adopted.status, adopted.runner_id, adopted.pid) == ("running", before.runner_id, before.pid)
        (settings.files / "home/admin/go").touch()
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.exit_code, run.output) == ("failed", 7, "out\nerr\n")
        assert (jobs.runs(quick)[0].status, jobs.runs(quick)[0].exit_code) == ("failed", 5)
        assert (settings.files / "home/admin/started").read_text() == "x\n"

    def test_of_the_scheduler_leaves_a_runner_that_can_be_asked(
        self, jobs: JobStore, launch: Launch, until: Until, tmp_path: Path
    ) -> None:
        process = launch()
        until(lambda: noted_runners(jobs))  # started beside the jobs, and perhaps not there yet
        [runner_id] = noted_runners(jobs).values()
        process.kill()
        process.wait()
        assert psutil.Process(runner_of(runner_id)).is_running()  # it has nothing to do, and waits
        second = launch()
        until(lambda: f"adopted runner {runner_id} with 0 runs" in (tmp_path / "scheduler.log").read_text())
        stop(second)
        until(lambda: not [line for line in commands() if "wsp.cron.runner" in line and str(tmp_path) in str(line)])

    def test_of_the_runner_too_loses_the_run_and_leaves_nothing_behind(
        self, jobs: JobStore, launch: Launch, until: Until, settings: Settings
    ) -> None:
        process = launch()
        job_id = jobs.add(
            next_run_at=soon(), cron_expr=YEARLY, command="echo x >> started; sleep 300 & setsid sleep 301 & sleep 302"
        )
        until(lambda: running(jobs, job_id))
        [before] = jobs.runs(job_id)
        mark = run_mark(before.runner_id, before.id)
        until(lambda: len(find_tree({mark})) == 4)
        process.kill()
        os.kill(runner_of(before.runner_id), signal.SIGKILL)
        process.wait()
        launch()
        until(lambda: ended(jobs, job_id))
        [after] = jobs.runs(job_id)
        assert (after.id, after.status, after.reason) == (before.id, "lost", GONE)
        assert after.finished_at is not None
        assert find_tree({mark}) == set()
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (before.started_at, False)
        assert (settings.files / "home/admin/started").read_text() == "x\n"

    def test_of_the_runner_alone(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        process = launch()
        job_id = jobs.add(
            next_run_at=soon(),
            cron_expr=YEARLY,
            command="echo $$ >> started; setsid sleep 301 & sleep 302",
            policy={"on_lost": "retry", "retry_delay_seconds": 0},
        )
        until(lambda: running(jobs, job_id))
        [before] = jobs.runs(job_id)
        mark = run_mark(before.runner_id, before.id)
        os.kill(runner_of(before.runner_id), signal.SIGKILL)
        until(lambda: len(jobs.runs(job_id)) == 2 and jobs.runs(job_id)[1].status == "running")
        lost, again = jobs.runs(job_id)
        assert (lost.status, lost.reason, lost.started_at) == ("lost", RUNNER_GONE, before.started_at)
        assert (again.trigger, again.cause_run_id) == ("retry", lost.id)
        assert again.runner_id != lost.runner_id
        assert find_tree({mark}) == set()
        assert process.poll() is None

    def test_before_the_process_was_written_down(
        self, jobs: JobStore, launch: Launch, until: Until, tmp_path: Path
    ) -> None:
        job_id, ahead, unseen = (jobs.add(next_run_at=soon(7200), cron_expr=YEARLY) for _ in range(3))
        claim = {"service_id": "dead", "node": node_name(), "boot_id": boot_id()}
        run_id = jobs.add_run(job_id, utc_now(), "queued", start_at=utc_now(), **claim)
        later = soon(3600)
        jobs.add_run(ahead, later, "queued", start_at=later, **claim)
        jobs.add_run(unseen, utc_now(), "queued", start_at=utc_now(), **{**claim, "service_id": "without"})
        with jobs.database.transaction() as session:
            session.add(CronState(name="runners:dead", value="first second"))
        marked = {MARK_VARIABLE: run_mark("second", run_id), "PATH": os.environ["PATH"]}
        command = subprocess.Popen(["sleep", "300"], cwd=tmp_path, env=marked)
        launch()
        assert command.wait(30) == -signal.SIGTERM
        until(lambda: jobs.runs(job_id)[0].status == "lost")
        until(lambda: jobs.runs(ahead)[0].service_id == "")  # its time had not come: it waits again
        assert jobs.runs(ahead)[0].status == "queued"
        until(lambda: jobs.runs(unseen)[0].status == "succeeded")  # its scheduler never had a runner
        until(lambda: "runners:dead" not in noted_runners(jobs))

    def test_a_missed_tick_runs_late_after_the_lost_run_was_seen_to(
        self, jobs: JobStore, launch: Launch, until: Until
    ) -> None:
        minute = utc_now().replace(second=0, microsecond=0)
        first, second = minute - 120 * SECOND, minute - 60 * SECOND
        job_id = jobs.add(next_run_at=first, cron_expr=f"{first.minute},{second.minute} * * * *")
        jobs.add_run(job_id, minute - 180 * SECOND, "running", service_id="dead", runner_id="gone", node=node_name())
        launch()
        until(lambda: jobs.runs(job_id)[-1].status == "succeeded")
        assert [run.status for run in jobs.runs(job_id)] == ["lost", "skipped", "succeeded"]
        assert jobs.runs(job_id)[1].reason == "The scheduler was not running"


class TestDatabaseTrouble:
    def test_an_outcome_outlives_a_database_that_is_away(
        self, jobs: JobStore, launch: Launch, until: Until, store: str, settings: Settings
    ) -> None:
        process = launch()
        job_id = jobs.add(
            next_run_at=soon(),
            cron_expr=YEARLY,
            command="while ! test -e go; do sleep 0.1; done; echo done; touch gone",
        )
        until(lambda: running(jobs, job_id))
        home = settings.files / "home" / "admin"
        with away(jobs.database, store):
            (home / "go").touch()
            until((home / "gone").exists)
            time.sleep(2)  # nothing to wait for: it is away, and the scheduler knocks
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.output) == ("succeeded", "done\n")
        after = jobs.add(next_run_at=soon(), cron_expr=YEARLY)
        until(lambda: ended(jobs, after))
        assert process.poll() is None

    def test_one_that_cannot_be_used_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "wsp.db").write_text("this is no database, and much longer than a header would be" * 10)
        settings = load_settings(data_dir=tmp_path, timezone="UTC")
        with pytest.raises(StartupError, match=r"^cron: the database cannot be used: file is not a database$"):
            run_scheduler(settings)


@contextmanager
def away(database: Database, store: str) -> Iterator[None]:
    """Nobody gets at the database for a while."""
    if store == "sqlite":
        with database.transaction(announce=False) as session:
            session.execute(select(ServiceRow))  # BEGIN IMMEDIATE
            yield
        return
    name = database.url.database
    conninfo = database.url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    database.close()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
