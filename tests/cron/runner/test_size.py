"""What a runner costs, and that it costs no more after many runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

LARGEST_KB = 20 * 1024  # it is 12 MB; other versions of Python, and the measuring of coverage, take more
GROWTH_KB = 2 * 1024


def memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_nothing_large_is_loaded() -> None:
    program = "import sys, wsp.cron.runner.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    large = {"asyncio", "sqlalchemy", "pydantic", "dataclasses", "inspect", "typing", "logging", "subprocess", "shutil"}
    assert large.isdisjoint(loaded)


def test_it_is_small(scheduler: "Scheduler") -> None:
    scheduler.run("true")
    assert memory_kb(scheduler.runner.pid) < LARGEST_KB


def test_it_sleeps_when_there_is_nothing_to_do(scheduler: "Scheduler") -> None:
    run_id = scheduler.start("exec sleep 600", timeout_seconds=3600)
    scheduler.begin(run_id)
    switches = Path(f"/proc/{scheduler.runner.pid}/status")

    def count() -> int:
        return int(switches.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    before = count()
    subprocess.run(["sleep", "1.5"], check=True)
    assert count() - before <= 2
    scheduler.kill(run_id, grace=0)
    scheduler.end(run_id)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_runs_leave_nothing(scheduler: "Scheduler", until: Callable[..., None]) -> None:
    pid = scheduler.runner.pid

    def batch(size: int) -> None:
        orders = [
            scheduler.order(
                ["true", "echo hello", "echo x; (sleep 0.01 &) ; exit 3", "seq 5000"][n % 4], timeout_seconds=3600
            )
            for n in range(size)
        ]
        for at in range(0, size, 50):
            part = orders[at : at + 50]
            scheduler.start_all(part)
            until(lambda part=part: all(order.run_id in scheduler.ended for order in part), 120)
        scheduler.ended.clear()
        scheduler.started.clear()

    def zombies() -> int:
        stats = [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
        fields = [text.rpartition(")")[2].split() for text in stats]
        return sum(1 for state, parent, *_ in fields if parent == str(pid) and state == "Z")

    batch(500)
    descriptors, memory = len(os.listdir(f"/proc/{pid}/fd")), memory_kb(pid)
    batch(4000)
    assert len(os.listdir(f"/proc/{pid}/fd")) == descriptors
    assert memory_kb(pid) - memory < GROWTH_KB
    until(lambda: zombies() == 0, 30)
    assert list(scheduler.outputs.iterdir()) == []
