"""The end of a command that somebody else decides on: the whole tree goes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .waiting import until

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

LONG_GRACE = 300.0  # seconds that no test waits for: whoever is gone before went of SIGTERM

ESCAPES = {
    "a child": "sleep 600 & echo $! >> pids; wait",
    "another process group": "bash -mc 'sleep 600 & echo $! >> pids; wait'",
    "setsid": "setsid sh -c 'echo $$ >> pids; exec sleep 600' & wait",
    "a double fork": "(sh -c 'echo $$ >> pids; exec sleep 600' &) ; sleep 600",
    "setsid and a double fork": "(setsid sh -c 'echo $$ >> pids; exec sleep 600' &) ; sleep 600",
    "env -i": "env -i sh -c 'echo $$ >> pids; exec sleep 600' & wait",
    "env -i, setsid and a double fork": "(env -i setsid sh -c 'echo $$ >> pids; exec sleep 600' &) ; sleep 600",
    "nohup and closed descriptors": "(nohup setsid sh -c 'echo $$ >> pids; exec sleep 600' <&- >&- 2>&- &); sleep 600",
    "generations of them": (
        '(env -i setsid sh -c \'echo $$ >> pids; (setsid sh -c "echo \\$\\$ >> pids; exec sleep 600" &);'
        " sleep 600' &); sleep 600"
    ),
    "a stopped one": "sh -c 'echo $$ >> pids; kill -STOP $$; sleep 600' & sleep 600",
}

# Each generation lives for milliseconds, in a session of its own and in that of the command.
FORKS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid() if os.fork() == 0 else None
while True:
    if os.fork():
        os._exit(0)
    open('beat', 'w').close()
    time.sleep(0.002)
"""


class TestKill:
    @pytest.mark.parametrize("command", ESCAPES.values(), ids=ESCAPES)
    def test_the_whole_tree_goes_at_sigterm(self, scheduler: "Scheduler", command: str) -> None:
        run_id = scheduler.start(f"echo $$ >> pids; {command}", kill_grace_seconds=LONG_GRACE)
        wanted = 3 if "generations" in _name(command) else 2
        until(lambda: len(scheduler.pids("pids")) == wanted)
        scheduler.kill(run_id, reason="Asked for")
        end = scheduler.end(run_id)
        assert (end.cause, end.reason, end.exit_code) == ("kill", "Asked for", 143)
        assert [pid for pid in scheduler.pids("pids") if scheduler.lives(pid)] == []

    @pytest.mark.parametrize("command", ESCAPES.values(), ids=ESCAPES)
    def test_those_that_ignore_sigterm_go_after_the_grace(self, scheduler: "Scheduler", command: str) -> None:
        run_id = scheduler.start(f"trap '' TERM; echo $$ >> pids; {command}")
        wanted = 3 if "generations" in _name(command) else 2
        until(lambda: len(scheduler.pids("pids")) == wanted)
        scheduler.kill(run_id, grace=0.3)
        end = scheduler.end(run_id)
        assert (end.cause, end.exit_code) == ("kill", 137)
        assert [pid for pid in scheduler.pids("pids") if scheduler.lives(pid)] == []

    def test_a_command_may_tidy_up(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start(
            "trap 'echo tidy; exit 7' TERM; touch ready; while :; do sleep 0.05; done", kill_grace_seconds=LONG_GRACE
        )
        until((scheduler.work / "ready").exists)
        scheduler.kill(run_id)
        end = scheduler.end(run_id)
        assert (end.cause, end.exit_code) == ("kill", 7)
        assert "tidy\n" in scheduler.text(end)

    def test_sigterm_comes_once(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("trap 'echo term' TERM; touch ready; while :; do sleep 0.05; done")
        until((scheduler.work / "ready").exists)
        scheduler.kill(run_id, grace=1.5)
        assert scheduler.text(scheduler.end(run_id)).count("term") == 1

    def test_what_outlives_its_leader_goes_too(self, scheduler: "Scheduler") -> None:
        """The command goes at SIGTERM, and leaves one without a parent that does not."""
        run_id = scheduler.start(
            "env -i setsid sh -c 'trap \"\" TERM; echo $$ >> pids; while :; do sleep 0.1; done' & echo $$ >> pids; wait"
        )
        until(lambda: len(scheduler.pids("pids")) == 2)
        scheduler.kill(run_id, grace=0.5)
        end = scheduler.end(run_id)
        assert (end.cause, end.exit_code) == ("kill", 143)
        assert not any(map(scheduler.lives, scheduler.pids("pids")))

    def test_who_forks_all_the_time(self, scheduler: "Scheduler") -> None:
        (scheduler.work / "forks.py").write_text(FORKS)
        run_id = scheduler.start(f"{sys.executable} -S forks.py; sleep 600")
        until((scheduler.work / "beat").exists)
        scheduler.kill(run_id, grace=0.2)
        assert scheduler.end(run_id).cause == "kill"
        beat = (scheduler.work / "beat").stat().st_mtime_ns
        time.sleep(0.2)  # not to wait for something: nothing is to happen
        assert (scheduler.work / "beat").stat().st_mtime_ns == beat

    def test_who_forks_faster_than_anybody_looks(self, tmp_path: Path, work: Path) -> None:
        """With a runner that sees no process when it looks, as if all were gone by then."""
        (work / "forks.py").write_text(FORKS)
        program = (
            "from wsp.cron.runner import procfs\n"
            "procfs.pids = list\n"
            "from wsp.cron.runner.__main__ import main\n"
            f"main(['--folder', {str(tmp_path)!r}, '--id', 'x'])\n"
        )
        command = f"{sys.executable} -S forks.py; sleep 600"
        order = {"run_id": 1, "command": command, "folder": str(work), "environment": {"PATH": "/bin"}}
        ours, theirs = socket.socketpair()
        with subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno()) as runner, ours:
            theirs.close()
            ours.settimeout(60)
            ours.sendall(json.dumps({"start": [order]}).encode() + b"\n")
            until((work / "beat").exists)
            ours.sendall(b'{"kill": [1, "", 0.2]}\n')
            while b'"ended"' not in ours.recv(65536):
                pass
            beat = (work / "beat").stat().st_mtime_ns
            time.sleep(0.2)  # not to wait for something: nothing is to happen
            assert (work / "beat").stat().st_mtime_ns == beat
            ours.sendall(b'{"acknowledge": [1], "dismiss": true}\n')
            ours.close()
            assert runner.wait(60) == 0

    def test_others_are_left_alone(self, scheduler: "Scheduler") -> None:
        other = scheduler.start("env -i setsid sh -c 'echo $$ >> others; sleep 600' & echo $$ >> others; wait")
        left = scheduler.start("(env -i setsid sh -c 'echo $$ >> left; exec sleep 600' >&- 2>&- &)")
        scheduler.end(left)
        with subprocess.Popen(["sleep", "600"], env={"WSP_RUN_ID": "other"}, start_new_session=True) as stranger:
            run_id = scheduler.start("echo $$ >> pids; sleep 600")
            until(lambda: len(scheduler.pids("others")) == 2 and scheduler.pids("left") and scheduler.pids("pids"))
            scheduler.kill(run_id)
            scheduler.end(run_id)
            living = [*scheduler.pids("others"), *scheduler.pids("left"), stranger.pid]
            assert all(map(scheduler.lives, living))
            stranger.kill()
        os.kill(scheduler.pids("left")[0], signal.SIGKILL)
        scheduler.kill(other)
        scheduler.end(other)
        assert not any(map(scheduler.lives, scheduler.pids("others")))

    def test_output_is_read_while_trees_are_ended(self, scheduler: "Scheduler") -> None:
        slow = [scheduler.start("trap '' TERM; touch ready; sleep 600") for _ in range(5)]
        until((scheduler.work / "ready").exists)
        for run_id in slow:
            scheduler.kill(run_id, grace=LONG_GRACE)
        assert scheduler.run("head -c 50000000 /dev/zero").output.total_bytes == 50_000_000
        for run_id in slow:
            assert run_id not in scheduler.ended
            scheduler.kill(run_id, reason="Now", grace=0)  # the shorter grace holds, and the first reason
        assert {scheduler.end(run_id).reason for run_id in slow} == {"Killed"}

    def test_many_at_once(self, scheduler: "Scheduler") -> None:
        orders = [scheduler.order("echo $$ >> pids; setsid sleep 600 & wait") for _ in range(100)]
        scheduler.start_all(orders)
        until(lambda: len(scheduler.pids("pids")) == 100)
        for order in orders:
            scheduler.kill(order.run_id)
        assert {scheduler.end(order.run_id).cause for order in orders} == {"kill"}

    def test_before_it_was_started(self, scheduler: "Scheduler") -> None:
        orders = [scheduler.order("sleep 600") for _ in range(200)]
        scheduler.start_all(orders)
        for order in orders:
            scheduler.kill(order.run_id, reason="At once", grace=0)
        ends = [scheduler.end(order.run_id) for order in orders]
        assert {(end.cause, end.reason, end.trouble) for end in ends} == {("kill", "At once", "")}
        assert all((end.started_at is None) == (end.exit_code is None) for end in ends)

    def test_one_that_has_ended_or_never_was(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("exit 3")
        end = scheduler.end(run_id)
        scheduler.kill(run_id)
        scheduler.kill(12345)
        scheduler.run("true")
        assert scheduler.ended[run_id] == end
        assert scheduler.twice == []


class TestTimeout:
    def test_ends_the_whole_tree(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start(
            "trap '' TERM; env -i setsid sleep 600 & echo $! >> pids; echo $$ >> pids; echo begun; sleep 600",
            timeout_seconds=0.5,
            kill_grace_seconds=0.3,
        )
        end = scheduler.end(run_id)
        assert (end.cause, end.reason, end.exit_code, scheduler.text(end)) == ("timeout", "", 137, "begun\n")
        assert end.duration_ms >= 800
        assert not any(map(scheduler.lives, scheduler.pids("pids")))

    def test_may_be_months(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("sleep 600", timeout_seconds=90 * 86400.0)
        scheduler.begin(run_id)
        assert scheduler.run("true").exit_code == 0
        assert (scheduler.folder / "runner" / f"{scheduler.runner.id}.log").read_text() == ""
        scheduler.kill(run_id)
        assert scheduler.end(run_id).cause == "kill"

    def test_does_not_concern_who_is_in_time(self, scheduler: "Scheduler") -> None:
        end = scheduler.run("sleep 0.2; exit 4", timeout_seconds=30)
        assert (end.cause, end.exit_code) == ("", 4)

    def test_does_not_concern_what_is_left_in_the_background(self, scheduler: "Scheduler") -> None:
        end = scheduler.run("sleep 600 & echo $! > pids", timeout_seconds=0.6)  # it drains for a second
        assert (end.cause, end.exit_code) == ("", 0)
        (pid,) = scheduler.pids("pids")
        assert scheduler.lives(pid)
        os.kill(pid, signal.SIGKILL)


class TestSigterm:
    def test_ends_all_trees_and_the_runner(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("setsid sleep 600 & echo $! >> pids; echo $$ >> pids; wait")
        until(lambda: len(scheduler.pids("pids")) == 2)
        os.kill(scheduler.runner.pid, signal.SIGTERM)
        end = scheduler.end(run_id)
        assert (end.cause, end.reason) == ("kill", "The runner was told to end")
        assert not any(map(scheduler.lives, scheduler.pids("pids")))
        scheduler.until(lambda: scheduler.gone)
        assert list((scheduler.folder / "runner").iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
    def test_other_signals_do_not(self, scheduler: "Scheduler", number: int) -> None:
        os.kill(scheduler.runner.pid, number)
        assert scheduler.run("true").exit_code == 0


def _name(command: str) -> str:
    return next(name for name, escape in ESCAPES.items() if escape == command)
