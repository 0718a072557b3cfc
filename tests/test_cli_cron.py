"""`wsp cron import`, `export`, `run`, `logs` and `tail`."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import select, update

from wsp.auth.service import create_user
from wsp.cli import run
from wsp.cron import service
from wsp.cron.models import CronJob, JobRun
from wsp.cron.runner import spool
from wsp.cron.runner.frames import STDERR, STDOUT, encode, gap
from wsp.database import Database, utc_now
from wsp.heartbeat import ServiceRow, node_name

Wsp = Callable[..., subprocess.CompletedProcess[str]]
DUE = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


@pytest.fixture
def wsp(database: Database, database_url: str, tmp_path: Path) -> Wsp:
    """`wsp cron …` on a database with the users ann and bob."""
    with database.transaction() as session:
        for name in ("ann", "bob"):
            create_user(session, name)
    environment = {
        "WSP_DATABASE_URL": database_url,
        "WSP_DATA_DIR": str(tmp_path / "data"),
        "WSP_TIMEZONE": "UTC",
    }

    def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
            code = run(["cron", *arguments])
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run_here


def stored(database: Database) -> list[CronJob]:
    with database.reading() as session:
        return list(session.scalars(select(CronJob).order_by(CronJob.id)))


class TestImport:
    def test_of_a_crontab(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        (tmp_path / "tab").write_text("# Nightly\n0 3 * * * run\n0 25 * * * never\n")
        tried = wsp("import", "tab", "--owner", "ann", "--dry-run")
        assert (tried.returncode, stored(database)) == (1, [])
        assert tried.stderr == "1 would be created, 0 skipped, 1 failed\n"
        assert "would create" in tried.stdout
        result = wsp("import", "tab", "--owner", "ann")
        assert result.returncode == 1
        assert result.stderr == "1 created, 0 skipped, 1 failed\n"
        assert "hour '25' is not allowed, use 0-23" in result.stdout
        (job,) = stored(database)
        assert (job.name, job.owner, job.cron_expr) == ("Nightly", "ann", "0 3 * * *")

    def test_of_standard_input(self, wsp: Wsp, database: Database) -> None:
        with mock.patch("sys.stdin", io.StringIO("@daily root run\n@daily bob walk\n")):
            assert wsp("import", "-", "--owner", "ann", "--format", "system").returncode == 0
        assert [(job.owner, job.command) for job in stored(database)] == [("ann", "run"), ("bob", "walk")]

    def test_of_more_than_goes_into_one_transaction(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        jobs = [{"id": n, "name": f"j{n}", "command": "x", "cron_expr": "@daily"} for n in range(1, 511)]
        jobs[0]["after"] = [{"job_id": 510}]
        (tmp_path / "jobs.json").write_text(json.dumps(jobs))
        result = wsp("import", "jobs.json", "--owner", "ann")
        assert (result.returncode, result.stderr) == (0, "510 created, 0 skipped, 0 failed\n")
        assert len(stored(database)) == 510

    def test_can_replace(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        (tmp_path / "tab").write_text("# Old\n@daily x\n")
        wsp("import", "tab", "--owner", "ann")
        (tmp_path / "tab").write_text("# New\n@daily x\n@daily y\n")
        assert wsp("import", "tab", "--owner", "ann").stderr == "1 created, 1 skipped, 0 failed\n"
        replaced = wsp("import", "tab", "--owner", "ann", "--replace")
        assert (replaced.returncode, replaced.stderr) == (0, "0 created, 2 replaced, 0 skipped, 0 failed\n")
        assert [job.name for job in stored(database)] == ["New", "y"]

    @pytest.mark.parametrize(
        ("content", "options", "sentence"),
        [
            ("@daily x\n", [], "Owner is required: say with --owner whose the jobs are to be"),
            ("@daily x\n", ["--owner", "nobody"], "User not found"),
            ("{", [], "file is not valid JSON"),
            ("[" * 100_000, [], "file is not valid JSON"),
            ("\ufeff{}", [], "must hold a list of jobs"),
            ("{}", [], "must hold a list of jobs, or an object with such a list under 'jobs'"),
            ("[]", ["--format", "xml"], "'xml'"),
        ],
    )
    def test_fails_in_one_line(self, wsp: Wsp, tmp_path: Path, content: str, options: list[str], sentence: str) -> None:
        (tmp_path / "file").write_text(content)
        result = wsp("import", "file", *options)
        assert result.returncode != 0
        assert result.stdout == ""
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1

    def test_fails_for_a_file_that_cannot_be_read(self, wsp: Wsp, tmp_path: Path) -> None:
        result = wsp("import", "nothing")
        assert (result.returncode, result.stderr) == (1, "wsp: Cannot read nothing: No such file or directory\n")
        (tmp_path / "latin").write_bytes(b"@daily gr\xfcn\n")
        assert wsp("import", "latin").stderr == "wsp: Cannot read latin: it is not UTF-8\n"


class TestExport:
    @pytest.mark.parametrize("format", ["crontab", "json"])
    @pytest.mark.parametrize("owner", [[], ["--owner", "ann"]])
    def test_is_what_import_reads(
        self, wsp: Wsp, database: Database, tmp_path: Path, format: str, owner: list[str]
    ) -> None:
        (tmp_path / "tab").write_text('# Nightly\n# wsp: {"timeout_seconds": 60}\n0 3 * * * run\n')
        wsp("import", "tab", "--owner", "ann")
        exported = wsp("export", "--format", format, *owner)
        assert (exported.returncode, exported.stderr) == (0, "")
        (tmp_path / "out").write_text(exported.stdout)
        with database.transaction() as session:
            service.delete_job(session, None, stored(database)[0].id)
        assert wsp("import", "out", "--owner", "bob" if owner == [] else "ann").returncode == 0
        (job,) = stored(database)
        assert (job.name, job.command, job.owner, job.policy) == ("Nightly", "run", "ann", {"timeout_seconds": 60})

    def test_of_nobody(self, wsp: Wsp) -> None:
        result = wsp("export", "--owner", "nobody")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "wsp: User not found\n")


class Stage:
    """A job, and a stand-in for its scheduler: each step of it is taken when the command waits."""

    def __init__(self, database: Database, outputs: Path) -> None:
        self._database = database
        self._outputs = outputs
        with database.transaction() as session:
            session.add(
                ServiceRow(
                    id="s",
                    node=node_name(),
                    kind="cron",
                    pid=1,
                    started_at=utc_now(),
                    heartbeat_at=utc_now() + timedelta(hours=1),
                )
            )
            job = service.create_job(session, owner="ann", name="nightly", command="x", cron_expr="@daily")
        self.job_id = job.id

    def add(self, status: str = "succeeded", *, minute: int = 0, job_id: int | None = None, **values: Any) -> int:
        """A run of the job, or of another one."""
        run = JobRun(
            job_id=job_id or self.job_id,
            scheduled_for=DUE + timedelta(minutes=minute),
            trigger="schedule",
            status=status,
            node=node_name(),
            **values,
        )
        with self._database.transaction() as session:
            session.add(run)
        return run.id

    def change(self, run_id: int, **values: Any) -> None:
        with self._database.transaction() as session:
            session.execute(update(JobRun).where(JobRun.id == run_id).values(**values))

    def write(self, run_id: int, *pieces: tuple[int, bytes], at: int = 0) -> None:
        folder = Path(spool.run_folder(self._outputs, run_id))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / spool.segment_name(at), "ab") as file:
            file.write(encode(pieces))

    @property
    def newest(self) -> int:
        with self._database.reading() as session:
            return session.scalars(select(JobRun.id).order_by(JobRun.id.desc())).first() or 0


@pytest.fixture
def stage(wsp: Wsp, database: Database, tmp_path: Path) -> Stage:
    return Stage(database, tmp_path / "data" / "cron" / "output")


def steps(*taken: Callable[[], object]) -> Any:
    """What happens, one after the other, whenever the command waits; then comes Ctrl-C."""
    left = iter(taken)

    def wait(_seconds: float) -> None:
        if _seconds:
            step = next(left, None)
            if step is None:
                raise KeyboardInterrupt
            step()

    return mock.patch("wsp.cli.cronruns.time.sleep", wait)


class TestRun:
    def test_shows_what_the_command_prints_and_ends_as_it_does(self, wsp: Wsp, stage: Stage) -> None:
        def begin() -> None:
            stage.write(stage.newest, (STDOUT, b"one\n"))
            stage.change(stage.newest, status="running", node=node_name())

        with steps(
            lambda: None,
            begin,
            lambda: stage.write(stage.newest, (STDERR, b"oh\n"), (STDOUT, "gr\u00fcn".encode()[:3])),
            lambda: stage.write(stage.newest, (STDOUT, "gr\u00fcn\n".encode()[3:])),
            lambda: stage.change(
                stage.newest, status="failed", exit_code=3, duration_ms=1500, output="one\noh\ngrün\n"
            ),
        ):
            result = wsp("run", str(stage.job_id))
        assert result.stdout == "one\ngrün\n"
        assert result.stderr == f"oh\nwsp: Run {stage.newest} failed after 1.5 s, exit code 3\n"
        assert result.returncode == 3

    def test_shows_what_came_at_the_very_end(self, wsp: Wsp, stage: Stage) -> None:
        frames = encode([(STDOUT, b"head\n"), gap(100), (STDOUT, b"tail\n")])
        with steps(lambda: stage.change(stage.newest, status="succeeded", exit_code=0, output_frames=frames)):
            result = wsp("run", str(stage.job_id))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "head\n… 100 bytes left out …\ntail\n"

    @pytest.mark.parametrize(
        ("values", "code", "outcome"),
        [
            ({"status": "timed_out", "exit_code": 0, "reason": "Took too long"}, 1, "timed out: Took too long"),
            ({"status": "killed", "exit_code": 137, "duration_ms": 20}, 137, "killed after 0.0 s, exit code 137"),
            ({"status": "lost"}, 1, "lost"),
        ],
    )
    def test_fails_when_the_run_does(
        self, wsp: Wsp, stage: Stage, values: dict[str, Any], code: int, outcome: str
    ) -> None:
        with steps(lambda: stage.change(stage.newest, **values)):
            result = wsp("run", str(stage.job_id))
        assert (result.returncode, result.stderr) == (code, f"wsp: Run {stage.newest} {outcome}\n")

    def test_leaves_the_command_running_on_ctrl_c(self, wsp: Wsp, stage: Stage, database: Database) -> None:
        with steps(lambda: stage.change(stage.newest, status="running")):
            result = wsp("run", str(stage.job_id))
        sentence = f"wsp: Run {stage.newest} goes on; see it with: wsp cron tail {stage.job_id} --follow\n"
        assert (result.returncode, result.stderr) == (130, sentence)
        with database.reading() as session:
            row = session.get_one(JobRun, stage.newest)
        assert (row.status, row.kill_requested_at) == ("running", None)

    def test_need_not_wait(self, wsp: Wsp, stage: Stage) -> None:
        result = wsp("run", str(stage.job_id), "--no-wait")
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{stage.newest}\n", "")

    def test_fails_in_one_line(self, wsp: Wsp, stage: Stage, database: Database) -> None:
        assert wsp("run", "999").stderr == "wsp: Cron job not found\n"
        run_id = stage.add("running")
        assert wsp("run", str(stage.job_id)).stderr == f"wsp: Run {run_id} of this job is still going\n"
        with database.transaction() as session:
            session.execute(update(ServiceRow).values(heartbeat_at=DUE - timedelta(days=3650)))
        assert wsp("run", str(stage.job_id)).stderr.startswith("wsp: No scheduler is running")


class TestLogs:
    def test_are_a_table(self, wsp: Wsp, stage: Stage) -> None:
        stage.add("succeeded", minute=0, exit_code=0, duration_ms=1500)
        stage.add("failed", minute=1, exit_code=2)
        stage.add("skipped", minute=2, reason="Paused")
        result = wsp("logs", str(stage.job_id))
        assert result.returncode == 0
        head, *rows = result.stdout.splitlines()
        assert head.split() == ["Run", "Due", "Trigger", "Status", "Exit", "Took"]
        assert [row.split()[1:] for row in rows] == [
            ["2026-11-26T03:02:00+00:00", "schedule", "skipped", "Paused"],
            ["2026-11-26T03:01:00+00:00", "schedule", "failed", "2"],
            ["2026-11-26T03:00:00+00:00", "schedule", "succeeded", "0", "1.5", "s"],
        ]

    def test_can_be_less(self, wsp: Wsp, stage: Stage) -> None:
        for minute, status in enumerate(["failed", "lost", "succeeded", "failed"]):
            stage.add(status, minute=minute)
        assert len(wsp("logs", str(stage.job_id), "--limit", "3").stdout.splitlines()) == 4
        shown = wsp("logs", str(stage.job_id), "--status", "failed", "--status", "lost").stdout
        assert [line.split()[3] for line in shown.splitlines()[1:]] == ["failed", "lost", "failed"]

    def test_fail_in_one_line(self, wsp: Wsp, stage: Stage) -> None:
        assert wsp("logs", "999").stderr == "wsp: Cron job not found\n"
        for options in (["--status", "fine"], ["--limit", "0"]):
            result = wsp("logs", str(stage.job_id), *options)
            assert result.returncode == 2
            assert result.stderr.count("\n") == 1
            assert result.stderr.startswith(f"wsp: Invalid value for '{options[0]}': ")
            assert "error" not in result.stderr


class TestTail:
    def test_shows_the_last_run(self, wsp: Wsp, stage: Stage) -> None:
        stage.add(minute=0, output="old\n")
        run_id = stage.add(minute=1, output="new\n", duration_ms=100)
        result = wsp("tail", str(stage.job_id))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == (
            f"==> Run {run_id} of job {stage.job_id} (nightly), schedule, 2026-11-26T03:01:00+00:00\n"
            f"new\n<== Run {run_id} succeeded after 0.1 s\n"
        )
        assert wsp("tail", str(stage.job_id), "-n", "5").stdout.count("==> ") == 2
        assert wsp("tail", str(stage.job_id), "-n", "0").stdout == ""

    def test_follows_runs_as_they_happen(self, wsp: Wsp, stage: Stage) -> None:
        stage.add(minute=0, output="old\n")
        with steps(
            lambda: stage.add("queued", minute=1),
            lambda: stage.change(stage.newest, status="running"),
            lambda: stage.write(stage.newest, (STDOUT, b"one\n")),
            lambda: stage.write(stage.newest, (STDERR, b"two\n")),
            lambda: stage.change(stage.newest, status="killed", exit_code=143),
            lambda: stage.add("skipped", minute=2, reason="Paused"),
        ):
            result = wsp("tail", str(stage.job_id), "-f", "-n", "0")
        skipped, run_id = stage.newest, stage.newest - 1
        assert (result.returncode, result.stderr) == (0, "two\n")
        assert result.stdout == (
            f"==> Run {run_id} of job {stage.job_id} (nightly), schedule, 2026-11-26T03:01:00+00:00\n"
            f"one\n<== Run {run_id} killed, exit code 143\n"
            f"==> Run {skipped} of job {stage.job_id} (nightly), schedule, 2026-11-26T03:02:00+00:00\n"
            f"<== Run {skipped} skipped: Paused\n"
        )

    def test_of_all_tells_them_apart(self, wsp: Wsp, stage: Stage, database: Database) -> None:
        with database.transaction() as session:
            other = service.create_job(session, owner="bob", name="other", command="x", cron_expr="@daily").id
        first, second = stage.add("running"), stage.add("running", job_id=other)
        with steps(
            lambda: stage.write(first, (STDOUT, b"a1\n")),
            lambda: stage.write(first, (STDOUT, b"a2\n")),
            lambda: stage.write(second, (STDOUT, b"b\n")),
            lambda: stage.write(first, (STDOUT, b"a3\n")),
        ):
            result = wsp("tail", "--all", "-f", "-n", "2")
        lines = [line if len(line) < 5 else line.split(",")[0] for line in result.stdout.splitlines()]
        of_first, of_second = (
            f"==> Run {first} of job {stage.job_id} (nightly)",
            f"==> Run {second} of job {other} (other)",
        )
        assert lines == [of_first, of_second, of_first, "a1", "a2", of_second, "b", of_first, "a3"]

    def test_of_one_job_leaves_others_out(self, wsp: Wsp, stage: Stage, database: Database) -> None:
        with database.transaction() as session:
            other = service.create_job(session, owner="bob", name="other", command="x", cron_expr="@daily").id
        with steps(lambda: stage.add(job_id=other)):
            assert wsp("tail", str(stage.job_id), "-f").stdout == ""

    def test_minds_no_run_that_is_taken_back(self, wsp: Wsp, stage: Stage, database: Database) -> None:
        def take_back() -> None:
            with database.transaction() as session:
                session.delete(session.get_one(JobRun, stage.newest))

        with steps(lambda: stage.add("queued"), take_back, lambda: None):
            result = wsp("tail", "--all", "-f")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_fails_in_one_line(self, wsp: Wsp, stage: Stage) -> None:
        assert wsp("tail", "999").stderr == "wsp: Cron job not found\n"
        for arguments in ([], [str(stage.job_id), "--all"]):
            assert wsp("tail", *arguments).stderr == "wsp: Name a job by its id, or say --all\n"


class TestTheServer:
    def test_carries_nothing_of_this(self, tmp_path: Path) -> None:
        program = """
import sys
from unittest import mock
from wsp import cli
with mock.patch("wsp.cli.services._run", return_value=0) as ran:
    assert cli.run(sys.argv[1:]) == 0
assert ran.called
assert "wsp.cli.cronjobs" not in sys.modules and "wsp.cli.administration" not in sys.modules
"""
        for arguments in (["cron"], ["cron", "--supervised", "1"], ["cron", "--supervised=1"]):
            result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
