"""The cron process, as a process of its own, on both stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil
import psycopg
import pytest
from sqlalchemy import select

from wsp.cron.models import CronState, Follows, JobRun, Notice
from wsp.cron.runner.frames import STDERR, STDOUT, decode
from wsp.cron.server.processes import MARK_VARIABLE, boot_id, find_tree
from wsp.cron.server.recovery import GONE, RUNNER_GONE, run_mark
from wsp.cron.server.run import run as run_scheduler
from wsp.database import Database, utc_now
from wsp.errors import StartupError
from wsp.heartbeat import ServiceRow, alive, node_name
from wsp.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

pytestmark = pytest.mark.e2e

SECOND = timedelta(seconds=1)
TARDY_SECONDS = 5.0  # what takes a fraction of a second, on a machine that has other things to do
PROGRAM = (
    "from wsp.settings import load_settings; from wsp.logs import configure_logging; "
    "from wsp.cron.server.run import run; "
    "settings = load_settings(); configure_logging(settings); run(settings, supervised={supervised})"
)

YEARLY = "0 0 1 1 *"  # for jobs that are given a first tick by hand, and are not to come due again in the test

Until = Callable[..., None]


class Launch(Protocol):
    def __call__(self, **more: str) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def variables(settings: Settings, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a scheduler on this test's database."""
    passed = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **passed,
        "WSP_DATA_DIR": str(settings.data_dir),
        "WSP_DATABASE_URL": database_url,
        "WSP_TIMEZONE": "Europe/Berlin",
        "WSP_LOG_LEVEL": "debug",
    }


@pytest.fixture
def launch(
    variables: dict[str, str], jobs: JobStore, tmp_path: Path, until: Until, end_runners: Callable[[Path], None]
) -> Iterator[Launch]:
    """Start a scheduler and wait until it works. What still runs after the test is killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(**more: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "scheduler.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(supervised=False)], env=variables | more, stdout=log, stderr=log
            )
        begun.append(process)
        # When it arms a job, its start is over, and with it the counting anew of what is to come.
        witness = jobs.add(cron_expr=YEARLY)
        until(lambda: process.poll() is not None or jobs.job(witness).next_run_at)
        jobs.delete(witness)
        assert process.poll() is None, (tmp_path / "scheduler.log").read_text()
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()
    end_runners(tmp_path)


def schedulers(database: Database) -> list[int]:
    """The process ids of the schedulers that have reported themselves."""
    with database.reading() as session:
        return list(session.scalars(select(ServiceRow.pid).where(ServiceRow.kind == "cron")))


def stop(process: subprocess.Popen[bytes]) -> float:
    """Stop a scheduler in an orderly way. Returns how many seconds that took."""
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    return time.monotonic() - begin


def ended(jobs: JobStore, job_id: int) -> bool:
    return any(run.status not in ("queued", "running", "skipped") for run in jobs.runs(job_id))


def running(jobs: JobStore, job_id: int) -> bool:
    return any(run.status == "running" and run.pid for run in jobs.runs(job_id))


def commands() -> list[list[str]]:
    """The command lines of all processes."""
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


def runner_of(runner_id: str) -> int:
    """The process of a runner."""
    for process in psutil.process_iter(["cmdline"]):
        if runner_id in (process.info["cmdline"] or ()):
            pid: int = process.pid
            return pid
    raise AssertionError(f"no runner {runner_id}")


def noted_runners(jobs: JobStore) -> dict[str, str]:
    """Which runners the schedulers have written down."""
    with jobs.database.reading() as session:
        states = session.scalars(select(CronState).where(CronState.name.startswith("runners:")))
        return {state.name: state.value for state in states}


def soon(seconds: float = 1.0) -> datetime:
    return utc_now() + timedelta(seconds=seconds)


class TestJob:
    def test_is_armed_and_runs_at_its_due_second(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        job_id = jobs.add(cron_expr=f"* * * * * {soon(5).second}", command="echo hello")
        begin = time.monotonic()
        until(lambda: jobs.job(job_id).next_run_at is not None)
        assert time.monotonic() - begin < TARDY_SECONDS
        due = jobs.job(job_id).next_run_at
        assert due is not None
        assert due.microsecond == 0
        until(lambda: ended(jobs, job_id), 75)
        [first] = jobs.runs(job_id)
        assert first.scheduled_for == due
        assert first.started_at is not None
        assert timedelta(0) <= first.started_at - due < timedelta(seconds=TARDY_SECONDS)
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok, job.next_run_at) == (first.started_at, True, due + 60 * SECOND)

    def test_runs_in_its_owners_home_and_its_row_tells_all(
        self, jobs: JobStore, launch: Launch, until: Until, settings: Settings
    ) -> None:
        launch()
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="pwd; echo $LOGNAME; echo oops >&2; exit 3")
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.exit_code, run.trigger, run.reason) == ("failed", 3, "schedule", "")
        assert run.output == f"{settings.files}/home/admin\nadmin\noops\n"
        assert run.duration_ms is not None
        assert run.started_at is not None
        assert run.finished_at is not None
        assert run.started_at <= run.finished_at
        job = jobs.job(job_id)
        assert (job.last_run_at, job.last_run_ok) == (run.started_at, False)

    def test_of_which_one_is_still_running_is_not_started_twice(
        self, jobs: JobStore, launch: Launch, until: Until
    ) -> None:
        launch()
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="sleep 60")
        until(lambda: running(jobs, job_id))
        first = jobs.runs(job_id)[0]
        with jobs.database.transaction() as session:  # due again at once, instead of in a minute
            session.get_one(type(jobs.job(job_id)), job_id).next_run_at = utc_now()
        until(lambda: len(jobs.runs(job_id)) == 2)
        skipped = jobs.runs(job_id)[1]
        assert (skipped.status, skipped.reason) == ("skipped", f"Run {first.id} of this job was still going")

    def test_that_is_disabled_changed_or_deleted_does_not_run(
        self, jobs: JobStore, launch: Launch, until: Until
    ) -> None:
        launch()
        due = soon(3)
        disabled, changed, deleted = (
            jobs.add(next_run_at=due, cron_expr=YEARLY, command=f"echo {n}") for n in range(3)
        )
        witness = jobs.add(next_run_at=due, cron_expr=YEARLY)
        jobs.change(disabled, enabled=False)
        jobs.change(changed, cron_expr="0 0 1 1 *")
        jobs.delete(deleted)
        until(lambda: jobs.job(disabled).next_run_at is None)
        until(lambda: ended(jobs, witness))
        assert [run.job_id for run in jobs.runs()] == [witness]

    def test_with_a_bad_expression_does_not_stop_the_others(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        bad = jobs.add(next_run_at=soon(), cron_expr="rubbish")
        jobs.add(cron_expr="rubbish too")
        good = jobs.add(next_run_at=soon(), cron_expr=YEARLY)
        until(lambda: ended(jobs, good))
        assert [run.status for run in jobs.runs(bad)] == ["skipped"]

    def test_that_cannot_start_fails_with_a_sentence(
        self, jobs: JobStore, launch: Launch, until: Until, settings: Settings
    ) -> None:
        jobs.owner("blocked")
        (settings.files / "home").mkdir(parents=True)
        (settings.files / "home" / "blocked").symlink_to("/etc")
        launch()
        homeless = jobs.add(owner="blocked", next_run_at=soon(), cron_expr=YEARLY)
        too_long = jobs.add(owner="blocked", next_run_at=soon(), cron_expr=YEARLY, command=": " + "x" * 200_000)
        (settings.files / "home" / "admin").mkdir()
        until(lambda: ended(jobs, homeless) and ended(jobs, too_long))
        [run] = jobs.runs(homeless)
        assert (run.status, run.exit_code) == ("failed", None)
        assert run.output == "The command could not be started: its home folder cannot be used"
        assert jobs.job(homeless).last_run_ok is False

    def test_waits_for_its_turn_when_all_places_are_taken(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch(WSP_CRON_MAX_RUNNING="2")
        ids = [jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="sleep 0.5") for _ in range(5)]
        until(lambda: all(ended(jobs, job_id) for job_id in ids))
        runs = sorted(jobs.runs(), key=lambda run: run.started_at or run.scheduled_for)
        assert [run.status for run in runs] == ["succeeded"] * 5
        for one in runs:
            assert one.started_at is not None
            at_once = [
                o for o in runs if o.started_at and o.finished_at and o.started_at <= one.started_at < o.finished_at
            ]
            assert len(at_once) <= 2

    def test_a_flood_of_output_is_cut(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch(WSP_CRON_MAX_OUTPUT_BYTES="2000")
        job_id = jobs.add(
            next_run_at=soon(), cron_expr=YEARLY, command="printf 'first\\0'; head -c 5000000 /dev/zero; echo last"
        )
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert run.output_truncated
        assert run.output.startswith("first\N{SYMBOL FOR NULL}")
        assert run.output.endswith("last\n")
        assert "bytes left out" in run.output

    def test_its_end_is_mailed(
        self, jobs: JobStore, launch: Launch, until: Until, free_port: Callable[[], int], tmp_path: Path
    ) -> None:
        port = free_port()
        with (tmp_path / "mails").open("wb") as mails:
            sink = subprocess.Popen(
                [sys.executable, "-u", "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}"], stdout=mails, stderr=mails
            )
        try:
            launch(WSP_SMTP_HOST="127.0.0.1", WSP_SMTP_PORT=str(port))
            jobs.add(next_run_at=soon(), cron_expr=YEARLY, name="a\nBcc: x@y.z", command="exit 5", email_on_error=True)
            until(lambda: b"END MESSAGE" in (tmp_path / "mails").read_bytes())
        finally:
            sink.terminate()
            sink.wait()
        text = (tmp_path / "mails").read_text()
        assert "To: admin@example.org" in text
        assert "\nBcc:" not in text
        with jobs.database.reading() as session:
            assert session.scalars(select(Notice.kind)).all() == ["run"]

    def test_that_is_changed_runs_as_it_is_from_then_on(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        job_id = jobs.add(cron_expr="* * * * * *", command="echo old")
        until(lambda: [run for run in jobs.runs(job_id) if run.output])
        jobs.change(job_id, command="echo new", updated_at=utc_now(), due_from=utc_now())
        until(lambda: len([run for run in jobs.runs(job_id) if run.output == "new\n"]) >= 2)
        outputs = [run.output for run in jobs.runs(job_id) if run.status == "succeeded"]
        assert outputs == sorted(outputs, reverse=True)  # "old" sorts after "new"

    def test_what_it_writes_to_is_told_apart(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="echo one; echo two >&2")
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert run.output_frames is not None
        assert sorted(decode(run.output_frames)) == [(STDOUT, b"one\n"), (STDERR, b"two\n")]
        assert run.output_bytes == 8

    def test_takes_too_long(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        policy = {"timeout_seconds": 1, "kill_grace_seconds": 1}
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command="echo begun; sleep 60", policy=policy)
        until(lambda: ended(jobs, job_id))
        [run] = jobs.runs(job_id)
        assert (run.status, run.exit_code, run.output) == ("timed_out", 143, "begun\n")
        assert run.reason == "It took longer than 1 s"

    def test_that_fails_is_tried_again_and_followed(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        launch()
        policy = {"retries": 1, "retry_delay_seconds": 0}
        follower = jobs.add(cron_expr="", command="echo followed")
        job_id = jobs.add(next_run_at=soon(2), cron_expr=YEARLY, command="exit 3", policy=policy)
        with jobs.database.transaction() as session:
            session.add(Follows(job_id=follower, after_job_id=job_id, condition="failure"))
        until(lambda: ended(jobs, follower))
        first, second = jobs.runs(job_id)
        [after] = jobs.runs(follower)
        assert [(run.status, run.trigger, run.attempt) for run in (first, second)] == [
            ("failed", "schedule", 1),
            ("failed", "retry", 2),
        ]
        assert (second.cause_run_id, after.cause_run_id, after.trigger) == (first.id, second.id, "after")
        assert jobs.job(job_id).failures_in_row == 1

    def test_with_a_place_of_its_own(self, jobs: JobStore, launch: Launch, until: Until, settings: Settings) -> None:
        (settings.files / "home" / "admin" / "site").mkdir(parents=True)
        launch()
        policy = {"working_dir": "site", "env": {"A": "x y"}, "stdin": "hello", "shell": "/bin/bash"}
        command = "pwd; echo $A; cat; echo; echo ${BASH_VERSION:+bash}"
        job_id = jobs.add(next_run_at=soon(), cron_expr=YEARLY, command=command, policy=policy)
        until(lambda: ended(jobs, job_id))
        assert jobs.runs(job_id)[0].output == f"{settings.files}/home/admin/site\nx y\nhello\nbash\n"

    def test_at_the_start_of_the_service(self, jobs: JobStore, launch: Launch, until: Until) -> None:
        job_id = jobs.add(cron_expr="@reboot", command="echo up")
        first = launch()
        until(lambda: ended(jobs, job_id))
        stop(first)
        launch()
        until(lambda: len(jobs.runs(job_id)) == 2 and jobs.runs(job_id)[1].status == "succeeded")
        assert {run.trigger for run in jobs.runs(job_id)} == {"reboot"}


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
