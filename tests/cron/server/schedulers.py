"""What tests of the cron process look at: its processes, its runners, and what became of jobs."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import psutil
from sqlalchemy import select

from wsp.cron.models import CronState
from wsp.database import Database, utc_now
from wsp.heartbeat import ServiceRow

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

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
