"""The cron process, as a process of its own, on both stores: what becomes of jobs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from wsp.cron.models import Follows, Notice
from wsp.cron.runner.frames import STDERR, STDOUT, decode
from wsp.database import utc_now
from wsp.settings import Settings

from .schedulers import SECOND, TARDY_SECONDS, YEARLY, Launch, Until, ended, running, soon, stop

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

pytestmark = pytest.mark.e2e


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
