"""Finding and ending the processes of a command."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wsp.cron.runner.procfs import run_limit
from wsp.cron.server.processes import MARK_VARIABLE, Process, boot_id, end_tree, find_tree, start_time

DEADLINE_SECONDS = 20.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@dataclass(frozen=True)
class Started:
    """A command as a runner starts it."""

    process: Process
    popen: "subprocess.Popen[bytes]"


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[str], tuple[Started, str]]]:
    """Start a command with a mark of its own; what is left of it is ended after the test."""
    begun: list[tuple[Started, str]] = []

    def begin(command: str) -> tuple[Started, str]:
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        popen = subprocess.Popen(
            ["prlimit", f"--msgqueue={run_limit(mark)}:", "--", "/bin/sh", "-c", command],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", MARK_VARIABLE: mark},
            start_new_session=True,
        )
        begun.append((Started(Process(popen.pid, start_time(popen.pid) or 0), popen), mark))
        return begun[-1]

    yield begin
    for started, mark in begun:
        end_tree({mark}, [started.process], grace=0)
        started.popen.wait()


class TestFindTree:
    def test_children_and_those_that_left_the_session(self, launch: Callable[[str], tuple[Started, str]]) -> None:
        started, mark = launch("sleep 60 & setsid sleep 61 & env -i sleep 62 & wait")
        until(lambda: len(find_tree({mark}, [started.process])) == 4)
        assert started.process in find_tree({mark})
        assert len(find_tree({mark})) == 3  # without the session, not the one that dropped its environment
        assert len(find_tree((), [started.process])) == 3  # without the mark, not the one that left

    def test_those_that_left_everything_behind(self, launch: Callable[[str], tuple[Started, str]]) -> None:
        started, mark = launch("env -i setsid sleep 60 & wait")
        until(lambda: len(find_tree({mark}, [started.process])) == 2)
        assert len(find_tree((), [started.process])) == 1

    def test_a_limit_of_earlier_processes_means_nothing(self, launch: Callable[[str], tuple[Started, str]]) -> None:
        started, mark = launch("env -i setsid sleep 60 & wait")
        until(lambda: len(find_tree({mark}, [started.process])) == 2)
        later = Process(started.process.pid, started.process.started + 100_000)
        assert find_tree({mark}, [later]) == {started.process}  # by its mark

    def test_what_has_the_limit_and_another_mark_is_anothers(
        self, launch: Callable[[str], tuple[Started, str]]
    ) -> None:
        started, mark = launch(f"{MARK_VARIABLE}=other-1 setsid sleep 60 & wait")
        until(lambda: len(find_tree({"other-1"})) == 1)
        assert find_tree({mark}, [started.process]) == {started.process}
        assert end_tree({"other-1"}, grace=0) == 1

    def test_a_stranger_with_the_same_pid_is_not_found(self, launch: Callable[[str], tuple[Started, str]]) -> None:
        started, _ = launch("sleep 60")
        other = Process(started.process.pid, started.process.started - 1)
        assert find_tree((), [other]) == set()

    def test_a_mark_that_is_the_beginning_of_another_is_not_that_one(
        self, launch: Callable[[str], tuple[Started, str]]
    ) -> None:
        _, mark = launch("sleep 60")
        assert find_tree({mark[:-1]}) == set()


class TestEndTree:
    def test_the_whole_tree(self, launch: Callable[[str], tuple[Started, str]]) -> None:
        started, mark = launch("sleep 60 & setsid sleep 61 & env -i sleep 62 & wait")
        until(lambda: len(find_tree({mark}, [started.process])) == 4)
        tree = find_tree({mark}, [started.process])
        assert end_tree({mark}, [started.process], grace=DEADLINE_SECONDS) == 4
        assert not any(lives(process) for process in tree)

    def test_those_that_ignore_sigterm(self, launch: Callable[[str], tuple[Started, str]], tmp_path: Path) -> None:
        started, mark = launch("trap '' TERM; touch ready; sleep 60 & while :; do sleep 0.1; done")
        until((tmp_path / "ready").exists)
        assert end_tree({mark}, [started.process], grace=0.3) >= 1
        assert find_tree({mark}) == set()
        assert started.popen.wait() == -9

    def test_a_command_may_tidy_up(self, launch: Callable[[str], tuple[Started, str]], tmp_path: Path) -> None:
        started, mark = launch("trap 'touch tidy; exit 0' TERM; touch ready; while :; do sleep 0.05; done")
        until((tmp_path / "ready").exists)
        end_tree({mark}, [started.process], grace=DEADLINE_SECONDS)
        assert (tmp_path / "tidy").exists()
        assert started.popen.wait() == 0

    def test_nothing_there(self) -> None:
        assert end_tree({"no-such-mark"}, [Process(2**22 + 1, 1)], grace=1) == 0


def lives(process: Process) -> bool:
    state = Path(f"/proc/{process.pid}/stat")
    try:
        return start_time(process.pid) == process.started and state.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestIdentity:
    def test_start_time_tells_processes_apart(self) -> None:
        first = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            assert start_time(first.pid) is not None
            assert start_time(first.pid) != start_time(1)
        finally:
            first.communicate(b"\n")
        assert start_time(first.pid) is None

    def test_boot_id_is_the_kernels(self) -> None:
        assert len(boot_id()) == 36
        assert asyncio.run(asyncio.to_thread(boot_id)) == boot_id()
