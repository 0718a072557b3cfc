"""The cron process is killed again and again, at random moments, under a load of overlapping jobs.

WSP_TEST_KILLS says how many times on each store, 25 when it is not set. One half of them takes the scheduler alone,
which no command may notice; of the other half many take the runner as well, and some the runner alone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy import func, select

from wsp.cron.models import CronState, JobRun
from wsp.cron.server.processes import MARK_VARIABLE
from wsp.database import utc_now
from wsp.settings import Settings

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

KILLS = int(os.environ.get("WSP_TEST_KILLS", "25"))
SEED = 4
PATIENCE = 0.8  # how often a scheduler may get to work before it is killed; else it dies at its start
DEADLINE_SECONDS = 120.0  # until everything is settled after the last kill

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300 + 8 * KILLS)]

PROGRAM = (
    "from wsp.settings import load_settings; from wsp.logs import configure_logging; "
    "from wsp.cron.server.run import run; "
    "settings = load_settings(); configure_logging(settings); run(settings)"
)

# Each command appends one short line, which the kernel writes in one piece, with the id of its run.
NOTE = "echo ${WSP_RUN_ID##*-} >> started"

Until = Callable[..., None]


class Cron:
    """A cron process that is started again after each kill, as its supervisor would."""

    def __init__(self, variables: dict[str, str], log: Path) -> None:
        self._variables = variables
        self._log = log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", PROGRAM], env=self._variables, stdout=log, stderr=log)

    def runners(self) -> list[int]:
        """The processes of the runners of this test."""
        folder = self._variables["WSP_DATA_DIR"]
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "wsp.cron.runner" in line and any(word.startswith(folder) for word in line):
                found.append(process.pid)
        return found

    def kill(self, *, scheduler: bool, runners: bool) -> None:
        victims = self.runners() if runners else []
        if scheduler:
            self.process.kill()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if scheduler:
            self.process.wait()
            self.process = self._start()


@pytest.fixture
def cron(
    settings: Settings, database_url: str, jobs: JobStore, tmp_path: Path, end_runners: Callable[[Path], None]
) -> Iterator[Cron]:
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    one = Cron(
        {
            **variables,
            "WSP_DATA_DIR": str(settings.data_dir),
            "WSP_DATABASE_URL": database_url,
            "WSP_TIMEZONE": "UTC",
            "WSP_CRON_KEEP_RUNS": "100000",
        },
        tmp_path / "cron.log",
    )
    yield one
    one.process.kill()
    one.process.wait()
    end_runners(tmp_path)


@pytest.mark.parametrize("both", [0.0, 0.4], ids=["scheduler", "both"])
def test_no_tick_twice_and_none_without_a_row(
    jobs: JobStore, cron: Cron, settings: Settings, until: Until, both: float
) -> None:
    seeded = random.Random(SEED)
    each_second = "* * * * * *"
    quick = [jobs.add(cron_expr=each_second, command=NOTE) for _ in range(3)]
    caught_up = [jobs.add(cron_expr=each_second, command=NOTE, policy={"missed": "run_all"}) for _ in range(3)]
    overlapping = [
        jobs.add(cron_expr=each_second, command=f"{NOTE}; sleep 2.5", policy={"overlap": "allow"}) for _ in range(3)
    ]
    queued = [jobs.add(cron_expr="*/2 * * * * *", command=f"{NOTE}; sleep 1.5", policy={"overlap": "queue"})]
    retried = [
        jobs.add(cron_expr=each_second, command=f"{NOTE}; exit 1", policy={"retries": 1, "retry_delay_seconds": 1})
    ]
    again = [
        jobs.add(
            cron_expr=each_second,
            command=f"{NOTE}; setsid sleep 1.2",
            policy={"on_lost": "retry", "retry_delay_seconds": 0, "overlap": "allow"},
        )
    ]
    everything = [*quick, *caught_up, *overlapping, *queued, *retried, *again]
    until(lambda: all(jobs.job(job_id).next_run_at for job_id in everything))
    begun = utc_now()
    until(lambda: len(jobs.runs()) > len(everything))

    for number in range((KILLS + 1) // 2):
        if seeded.random() < PATIENCE:
            known = newest_run(jobs)
            until(lambda known=known: newest_run(jobs) > known, DEADLINE_SECONDS)
        time.sleep(seeded.uniform(0.0, 2.0))
        with_runner = seeded.random() < both
        alone = with_runner and seeded.random() < 0.2
        cron.kill(scheduler=not alone, runners=with_runner)
        assert cron.process.poll() is None, f"it ended by itself after kill {number}"
    last_kill = utc_now()

    # Until the last scheduler has caught up; then nothing new is to come.
    until(lambda: all(newest(jobs, job_id) > last_kill + timedelta(seconds=1) for job_id in quick), DEADLINE_SECONDS)
    for job_id in everything:
        jobs.change(job_id, enabled=False, updated_at=utc_now())
    until(lambda: not [run for run in jobs.runs() if run.status in ("queued", "running")], DEADLINE_SECONDS)

    runs = {run.id: run for run in jobs.runs()}
    notes = Counter(int(line) for line in (settings.files / "home/admin/started").read_text().split())
    assert [run_id for run_id, count in notes.items() if count > 1] == [], "started twice"
    assert notes.keys() <= runs.keys(), "started without a row"

    for run_id, run in runs.items():
        if run.status in ("succeeded", "failed", "timed_out"):
            assert run_id in notes, f"run {run_id} says {run.status} and never started"
            assert run.exit_code == (1 if run.job_id in retried else 0)
        elif run.status == "skipped":
            assert run_id not in notes, f"run {run_id} was started and says skipped"
            assert run.reason
        else:
            assert (run.status, both > 0) == ("lost", True), f"run {run_id} says {run.status}: {run.reason}"
    ticks = Counter((run.job_id, run.scheduled_for) for run in runs.values())
    assert max(ticks.values()) == 1

    for job_id in quick + caught_up + overlapping:
        assert undecided(jobs, job_id, begun + timedelta(seconds=1), last_kill) == []
    survived = [run for run in runs.values() if run.status == "succeeded" and run.job_id in overlapping]
    print(Counter(run.status for run in runs.values()))  # noqa: T201 - with -s
    assert survived, "nothing outlived a kill"

    left = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK_VARIABLE, "")
        except (psutil.Error, OSError):
            continue
        if process.username() and any(mark == f"{run.runner_id}-{run.id}" for run in runs.values() if run.runner_id):
            left.append(process)
    assert left == []
    with jobs.database.reading() as session:
        assert session.query(CronState).filter(CronState.name.startswith("runners:")).count() <= KILLS + 1


def newest_run(jobs: JobStore) -> int:
    with jobs.database.reading() as session:
        return session.scalar(select(func.max(JobRun.id))) or 0


def newest(jobs: JobStore, job_id: int) -> datetime:
    return max(run.scheduled_for for run in jobs.runs(job_id))


def undecided(jobs: JobStore, job_id: int, since: datetime, until: datetime) -> list[datetime]:
    """The seconds in which a job that is due each second has no row."""
    there = {run.scheduled_for for run in jobs.runs(job_id)}
    second = since.replace(microsecond=0) + timedelta(seconds=1)
    missing = []
    while second < until:
        if second not in there:
            missing.append(second)
        second += timedelta(seconds=1)
    return missing
