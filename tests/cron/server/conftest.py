"""Schedulers as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wsp.settings import Settings

from .schedulers import PROGRAM, YEARLY, Launch, Until

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore


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
