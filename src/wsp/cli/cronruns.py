"""`wsp cron run`, `logs` and `tail`: start a job now, and look at runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from wsp.cli.environment import read_settings
from wsp.cli.output import print_table
from wsp.cli.store import open_database
from wsp.cron import manual, service
from wsp.cron.folders import OUTPUTS
from wsp.cron.history import runs
from wsp.cron.history.output import Decoder, RunOutput
from wsp.cron.history.runs import RunPage
from wsp.cron.models import ENDED, CronJob, JobRun
from wsp.cron.runner.frames import GAP, STDERR
from wsp.database import Database, utc_now
from wsp.errors import Invalid
from wsp.heartbeat import node_name
from wsp.rest.fields import rfc3339
from wsp.settings import Settings

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
LOOK_SECONDS = 0.2
LATE_IDS = 1000  # on PostgreSQL a row may come into sight after others with higher ids

JobId = Annotated[int, typer.Argument(help="The job's id.")]


class Status(StrEnum):
    """What a run may be."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    LOST = "lost"
    SKIPPED = "skipped"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (run, logs, tail):
        app.command()(command)


def run(
    id: JobId, no_wait: Annotated[bool, typer.Option("--no-wait", help="Only print the id of the run.")] = False
) -> int:
    """Run a job now, show what it prints, and exit as its command does. Ctrl-C leaves it running.

    Example: wsp cron run 5
    """
    settings = read_settings(quiet=True)
    with open_database() as database:
        with database.transaction() as session:
            run_id = manual.request_run(session, None, id, requested_by="command line").id
        if no_wait:
            typer.echo(str(run_id))
            return 0
        followed = _Followed(run_id, settings.data_dir / OUTPUTS)
        try:
            while not followed.ended:
                with database.reading() as session:
                    for stream, text in followed.news(session):
                        typer.echo(text, nl=False, err=stream == STDERR)
                time.sleep(0 if followed.ended else LOOK_SECONDS)
        except KeyboardInterrupt:
            typer.echo(f"wsp: Run {run_id} goes on; see it with: wsp cron tail {id} --follow", err=True)
            return INTERRUPTED
    if followed.status != Status.SUCCEEDED:
        typer.echo(f"wsp: {followed.outcome}", err=True)
    return 0 if followed.status == Status.SUCCEEDED else followed.exit_code or FAILED


def logs(
    id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, the newest ones.")] = 20,
    status: Annotated[list[Status] | None, typer.Option(help="Only runs with this status; may be repeated.")] = None,
) -> None:
    """List the runs of a job, newest first.

    Example: wsp cron logs 5 --status failed --status timed_out
    """
    zone = read_settings(quiet=True).zone
    page = RunPage(limit=limit, status=",".join(status or ()), output=False)
    with open_database() as database, database.reading() as session:
        found = runs.list_runs(session, None, id, page, utc_now()).runs
        rows = [
            (
                str(each.id),
                rfc3339(each.scheduled_for, zone),
                each.trigger,
                each.status,
                "" if each.exit_code is None else str(each.exit_code),
                "" if each.duration_ms is None else f"{each.duration_ms / 1000:.1f} s",
                each.reason,
            )
            for runs_read in found
            for each in runs_read
        ]
    print_table(("Run", "Due", "Trigger", "Status", "Exit", "Took", ""), rows)


def tail(
    id: Annotated[int | None, typer.Argument(help="The job's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of all jobs.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with further runs, until Ctrl-C.")] = False,
    count: Annotated[int, typer.Option("--runs", "-n", min=0, help="How many of the last runs.")] = 1,
) -> None:
    """Show what the last runs printed, and with --follow what further ones print, as it comes.

    Example: wsp cron tail 5 -f
    """
    if (id is None) is not every:
        raise Invalid("Name a job by its id, or say --all")
    settings = read_settings(quiet=True)
    with open_database() as database, _until_interrupted():
        shown = _Tail(database, settings, id)
        shown.begin(count)
        while follow:
            time.sleep(LOOK_SECONDS)
            shown.go_on()


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how one ends what has no end."""
    with suppress(KeyboardInterrupt):
        yield


class _Followed:
    """A run whose output is shown as it comes. `folder` is where this machine keeps outputs."""

    def __init__(self, run_id: int, folder: Path) -> None:
        self.run_id = run_id
        self.status: str = Status.QUEUED
        self.ended = False
        self.exit_code: int | None = None
        self.outcome = f"Run {run_id} is gone"
        self._folder = folder
        self._decoder = Decoder()

    def news(self, session: Session) -> Iterator[tuple[int, str]]:
        """(stream, text) that came since the last time. Afterwards, the attributes say how the run stands."""
        row = session.scalar(select(JobRun).where(JobRun.id == self.run_id))
        if row is None:  # with its job, or a tick that was taken back before it was due
            self.ended = True
            return
        if row.status != Status.QUEUED:
            output = RunOutput(row, self._folder, node_name())
            while pieces := output.following(self._decoder.place):
                for piece in pieces:
                    if piece.stream == GAP:
                        yield from self._decoder.rest()
                        self._decoder.place = piece.end
                        yield GAP, f"… {piece.size} bytes left out …\n"
                    else:
                        yield piece.stream, self._decoder.text(piece)
        if row.status in ENDED:
            yield from self._decoder.rest()
            self.exit_code, self.outcome, self.ended = row.exit_code, _outcome(row), True
        self.status = row.status


def _outcome(run: JobRun) -> str:
    took = f" after {run.duration_ms / 1000:.1f} s" if run.duration_ms is not None else ""
    code = f", exit code {run.exit_code}" if run.exit_code else ""
    return f"Run {run.id} {run.status.replace('_', ' ')}{took}{code}{f': {run.reason}' if run.reason else ''}"


class _Tail:
    """The runs of a job, or of all (None), one below the other; those that go on at once in turns."""

    def __init__(self, database: Database, settings: Settings, job_id: int | None) -> None:
        self._database = database
        self._settings = settings
        self._job_id = job_id
        self._followed: dict[int, _Followed] = {}
        self._seen: set[int] = set()
        self._speaking = 0  # the run whose output was shown last

    def begin(self, count: int) -> None:
        """Show the newest runs, of those that go on what there is. Raises NotFound."""
        with self._database.reading() as session:
            if self._job_id is not None:
                service.get_job(session, None, self._job_id)
            newest = session.scalars(self._ids().order_by(JobRun.id.desc()).limit(max(count, LATE_IDS))).all()
            self._seen.update(newest)
            for run_id in reversed(newest[:count]):
                self._add(run_id)
            self._show(session)

    def go_on(self) -> None:
        """Show what has come since."""
        with self._database.reading() as session:
            late = max(self._seen, default=0) - LATE_IDS
            for run_id in session.scalars(self._ids().where(JobRun.id > late).order_by(JobRun.id)):
                if run_id not in self._seen:
                    self._add(run_id)
            self._seen = {run_id for run_id in self._seen if run_id > late}
            self._show(session)

    def _ids(self) -> Select[int]:
        query = select(JobRun.id)
        return query if self._job_id is None else query.where(JobRun.job_id == self._job_id)

    def _add(self, run_id: int) -> None:
        self._seen.add(run_id)
        self._followed[run_id] = _Followed(run_id, self._settings.data_dir / OUTPUTS)

    def _show(self, session: Session) -> None:
        for run_id, followed in list(self._followed.items()):
            known = followed.status
            for stream, text in followed.news(session):
                self._speak(session, run_id)
                typer.echo(text, nl=False, err=stream == STDERR)
            if followed.ended:
                del self._followed[run_id]
            if followed.status != known:
                self._speak(session, run_id)
                if followed.ended:
                    typer.echo(f"<== {followed.outcome}")

    def _speak(self, session: Session, run_id: int) -> None:
        if run_id == self._speaking:
            return
        self._speaking = run_id
        run, name = session.execute(
            select(JobRun, CronJob.name).join(CronJob, CronJob.id == JobRun.job_id).where(JobRun.id == run_id)
        ).one()
        due = rfc3339(run.scheduled_for, self._settings.zone)
        typer.echo(f"==> Run {run.id} of job {run.job_id} ({name}), {run.trigger}, {due}")
