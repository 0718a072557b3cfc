"""Commands that stand ready before they are due."""

import errno
import os
import random
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsp.cron.runner import client, gates
from wsp.cron.runner.command import Command
from wsp.cron.runner.frames import STDOUT
from wsp.cron.runner.gates import Ready
from wsp.cron.runner.server import Server
from wsp.cron.runner.spawn import Spawner

from .waiting import until

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

# One a line, with \n for a line's end. Nothing of it runs beside anything else, so that the same always comes of it.
PIECES = r"""
echo $LINENO $? $# $0 $-
echo é \udcff
cat
read -r a; echo $a
cat <<E\n$((1 + 1))\nE\n
cat <<'E'\n'\nE\n
cat <<E
f() { echo f$1; return 2; }
f 1
{ echo b; }
(exit 5)
exit 3
no-such-program
alias x='echo x'
x 1
set -e
set -u
set -x
set -v
set -n
set -- 1 2
echo $none
trap 'echo $?' EXIT
kill -TERM 0
eval 'echo e; false'
eval ';'
. ./none
exec echo x
exec 9>&1
echo 9 >&9
test -e /proc/self/fd/9 || echo closed
set | grep GATE
IFS=x
! true
if true; then
for i in 1 2; do
case a in a)
"""
PIECES_OF_TEXT = [piece.replace("\\n", "\n").replace("\\udcff", "\udcff") for piece in PIECES.strip().split("\n")]
PIECES_OF_TEXT += [*"!\\'\"`{}()#;\r\t", "$(", "${", "((", "&&", "||", "fi", "done", "esac", "\r\n", "\\\n"]
BETWEEN = ["", " ", "\n", "; ", ";", " && ", " || ", "\n\n", "\\\n"]

SPAWNER = Spawner("test")


class TestStandReady:
    def test_nothing_happens_before_the_start(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo $$ > ran")
        scheduler.prepare([order])
        (pid,) = scheduler.ready()
        scheduler.run("true")  # other commands come and go meanwhile
        assert scheduler.pids("ran") == []
        assert not scheduler.started.keys() & {order.run_id}
        scheduler.start_all([order])
        assert scheduler.end(order.run_id).exit_code == 0
        assert scheduler.pids("ran") == [pid]
        assert scheduler.started[order.run_id].pid == pid

    @pytest.mark.parametrize(
        "command",
        [
            "echo $LINENO $0 $# $-\necho $LINENO",
            "# nothing",
            "\n\nno-such-program",
            "cat <<END\n$((1 + 1))\nEND",
            "echo 'never closed",
            "echo a; ) echo b",
            "; echo a",
            "& echo a",
            "! true",
            "trap 'echo trap' EXIT; exit 3",
            "set -e; false; echo no",
            "echo ${WSP_GATE-none}; set | grep GATE; ls /proc/self/fd",
            "cat",
        ],
    )
    def test_a_command_cannot_tell(self, scheduler: "Scheduler", command: str) -> None:
        at_once = scheduler.run(command, stdin=b"input")
        order = scheduler.order(command, stdin=b"input")
        scheduler.prepare([order], ready=0)
        scheduler.run("true")
        scheduler.start_all([order])
        prepared = scheduler.end(order.run_id)
        assert scheduler.text(prepared) == scheduler.text(at_once)
        assert (prepared.exit_code, prepared.trouble) == (at_once.exit_code, "")

    def test_time_counts_from_the_start(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("true")
        scheduler.prepare([order])
        before = time.time()
        scheduler.start_all([order])
        started_at = scheduler.end(order.run_id).started_at
        assert started_at is not None
        assert started_at >= before

    def test_no_more_than_so_many(self, scheduler: "Scheduler") -> None:
        orders = [scheduler.order("echo $$ >> ran") for _ in range(gates.MOST + 10)]
        scheduler.prepare(orders, ready=gates.MOST)
        scheduler.run("true")
        assert len(scheduler.ready()) == gates.MOST
        scheduler.start_all(orders)
        for order in orders:
            assert scheduler.end(order.run_id).exit_code == 0
        assert len(set(scheduler.pids("ran"))) == len(orders)

    def test_gives_way_to_what_is_due_now(self, scheduler: "Scheduler") -> None:
        pid = scheduler.runner.pid
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 30
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        expected = [scheduler.order("echo ran") for _ in range(20)]
        scheduler.prepare(expected, ready=8)  # each keeps three, and takes seven to be made
        due = [scheduler.start("exec sleep 600") for _ in range(6)]
        scheduler.until(lambda: all(run_id in scheduler.started or run_id in scheduler.ended for run_id in due))
        assert scheduler.ended == {}
        assert scheduler.ready() != []  # no more than had to
        scheduler.start_all(expected[:2])
        assert [scheduler.text(scheduler.end(order.run_id)) for order in expected[:2]] == ["ran\n"] * 2

    def test_another_shell_starts_as_ever(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo $BASH_VERSION$PWD", shell="/bin/bash")
        scheduler.prepare([order], ready=0)
        scheduler.run("true")
        assert scheduler.ready() == []
        scheduler.start_all([order])
        assert scheduler.end(order.run_id).exit_code == 0

    @pytest.mark.parametrize("name", ["WSP_GATE", "SHELLOPTS"])
    def test_a_variable_by_which_it_could_tell(self, scheduler: "Scheduler", name: str) -> None:
        order = scheduler.order(f"echo ${name}", environment={"PATH": "/bin", name: "xtrace"})
        scheduler.prepare([order], ready=0)
        scheduler.run("true")
        assert scheduler.ready() == []
        scheduler.start_all([order])
        assert scheduler.text(scheduler.end(order.run_id)) == "xtrace\n"

    def test_an_order_that_has_changed_meanwhile(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo old >> ran")
        scheduler.prepare([order])
        changed = replace(order, command="echo new >> ran")
        scheduler.start_all([changed])
        scheduler.end(order.run_id)
        assert (scheduler.work / "ran").read_text() == "new\n"
        until(lambda: scheduler.ready() == [])

    def test_one_whose_process_was_ended_meanwhile(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo ran")
        scheduler.prepare([order])
        (pid,) = scheduler.ready()
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in scheduler.children())
        scheduler.start_all([order])
        assert scheduler.text(scheduler.end(order.run_id)) == "ran\n"

    def test_what_was_never_prepared_is_told(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo ran")
        scheduler.runner._prepared[order.run_id] = order
        scheduler.start_all([order])
        assert "forgotten" in scheduler.end(order.run_id).trouble


class TestWithoutAStart:
    """Whoever prepared it is gone, or has changed his mind."""

    @pytest.fixture
    def pids(self, scheduler: "Scheduler") -> list[int]:
        scheduler.prepare([scheduler.order("echo $$ >> ran") for _ in range(3)])
        return scheduler.ready()

    def test_the_scheduler_is_gone(self, scheduler: "Scheduler", pids: list[int]) -> None:
        scheduler.close()
        until(lambda: not any(map(scheduler.lives, pids)))
        assert scheduler.pids("ran") == []

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_the_runner_is_gone(self, scheduler: "Scheduler", pids: list[int], number: int) -> None:
        os.kill(scheduler.runner.pid, number)
        until(lambda: not any(map(scheduler.lives, pids)))
        assert scheduler.pids("ran") == []

    def test_a_runner_that_is_about_to_go_says_so(self, scheduler: "Scheduler") -> None:
        held_up = scheduler.start("trap '' TERM; echo $$ > up; while :; do sleep 0.1; done", kill_grace_seconds=5.0)
        until(lambda: scheduler.pids("up"))
        order = scheduler.order("echo $$ >> ran")
        scheduler.prepare([order])
        os.kill(scheduler.runner.pid, signal.SIGTERM)
        until(lambda: scheduler.ready() == [])
        scheduler.start_all([order])
        assert "told to end" in scheduler.end(order.run_id).trouble
        scheduler.kill(held_up, grace=0)
        assert scheduler.end(held_up).exit_code == 137

    def test_a_kill_of_what_was_not_started_does_nothing(self, scheduler: "Scheduler", pids: list[int]) -> None:
        for run_id in (1, 2, 3):
            scheduler.kill(run_id)
        assert scheduler.run("true").exit_code == 0
        assert scheduler.ready() == pids
        assert len(scheduler.ended) == 1


class TestTheLine:
    """What stands in front of a command is part of its line."""

    @pytest.mark.parametrize("command", ["; echo a", ";; echo a", "& echo a", "&& a", "| a", ") a", "# a", "\\\n; a"])
    def test_the_word_came_before_the_shell_has_read_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        fields = {"run_id": 1, "command": command, "folder": str(tmp_path), "environment": {"PATH": "/bin"}}
        gate = _opened()
        at_once = _outcome(SPAWNER.spawn(Command(fields)))
        assert _outcome(SPAWNER.spawn(Command(fields), gate=gate)) == at_once
        os.close(gate)

    @given(pieces=st.lists(st.sampled_from(PIECES_OF_TEXT), min_size=1, max_size=8), seed=st.integers(0, 2**32))
    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def test_any_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[str], seed: int) -> None:
        monkeypatch.chdir(tmp_path)
        seeded = random.Random(seed)
        command = "".join(piece + seeded.choice(BETWEEN) for piece in pieces)
        fields = {"run_id": 1, "command": command, "folder": str(tmp_path), "environment": {"PATH": "/bin"}}
        gate = _opened()
        at_once = _outcome(SPAWNER.spawn(Command(fields)))
        assert _outcome(SPAWNER.spawn(Command(fields), gate=gate)) == at_once
        os.close(gate)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A runner whose loop does not turn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "_listen_to_signals", lambda self: setattr(self, "_wake_r", os.pipe()[0]))
    one = Server(str(tmp_path), str(tmp_path), "test", None)
    os.chdir(tmp_path)
    yield one
    one._line.close()


class TestLettingGo:
    def test_of_one_that_the_word_does_not_reach(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_descriptor: int, _data: bytes) -> int:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.chdir(tmp_path)
        fields = {"run_id": 1, "command": "echo ran > ran", "folder": str(tmp_path), "environment": {"PATH": "/bin"}}
        ready = Ready(SPAWNER, Command(fields))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert not ready.open()
        assert os.WIFEXITED(os.waitpid(ready.process[0], 0)[1])
        assert list(tmp_path.iterdir()) == []

    def test_of_one_whose_gate_somebody_has_stopped_up(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo $$ >> ran")
        scheduler.prepare([order])
        (pid,) = scheduler.ready()
        os.kill(pid, signal.SIGSTOP)
        gate = os.open(f"/proc/{pid}/fd/9", os.O_WRONLY | os.O_NONBLOCK)  # as its own account may do
        with suppress(BlockingIOError):
            while os.write(gate, b"x" * 4096):
                pass
        try:
            scheduler.start_all([order])
            until(lambda: order.run_id in scheduler.ended)
            assert scheduler.ended[order.run_id].exit_code == 0
            assert pid not in scheduler.pids("ran")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.close(gate)

    def test_trouble_with_one_is_not_that_of_the_others(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        class Full:
            """An epoll that may not watch so many."""

            def register(self, _descriptor: int, _events: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        _prepare(server, "true", 3)
        monkeypatch.setattr(server, "_epoll", Full())
        server._let_go([1, 2, 3])
        assert list(server._runs) == [1, 2, 3]
        assert [start[0] for start in server._new_starts] == [1, 2, 3]
        assert "No space left" in capfd.readouterr().err
        for run in server._runs.values():
            assert os.waitpid(run.pid, 0)[1] == 0

    def test_output_that_somebody_else_has_read_is_not_waited_for(self, server: Server) -> None:
        """A command can open its own end of a pipe for reading: /dev/stdout."""
        _prepare(server, "sleep 1; echo late", 1)
        server._let_go([1])
        run = server._runs[1]
        (descriptor,) = (each for each, (_, stream) in server._pipes.items() if stream == STDOUT)
        server._read(descriptor, run, STDOUT, select.EPOLLIN)
        assert run.kept.total == 0
        assert descriptor in run.pipes
        assert os.waitpid(run.pid, 0)[1] == 0
        server._read(descriptor, run, STDOUT, select.EPOLLIN)
        assert run.kept.total == 5


class TestForgetting:
    def test_at_once_when_it_is_dropped(self, scheduler: "Scheduler", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "PREPARED_SECONDS", 3600.0)
        dropped, kept = scheduler.order("echo $$ >> ran"), scheduler.order("echo $$ >> ran")
        scheduler.prepare([dropped])
        (gone,) = scheduler.ready()
        scheduler.prepare([kept])
        scheduler.drop([dropped.run_id])
        until(lambda: not scheduler.lives(gone))
        scheduler.start_all([kept, dropped])
        assert [scheduler.end(each.run_id).trouble for each in (kept, dropped)] == ["", ""]
        assert gone not in scheduler.pids("ran")
        assert len(scheduler.pids("ran")) == 2

    def test_when_it_was_not_started_for_a_while(self, scheduler: "Scheduler", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "PREPARED_SECONDS", 0.2)
        order = scheduler.order("echo $$ >> ran")
        scheduler.prepare([order])
        (pid,) = scheduler.ready()
        until(lambda: not scheduler.lives(pid))
        assert scheduler.pids("ran") == []
        scheduler.start_all([order])
        assert scheduler.end(order.run_id).exit_code == 0
        assert len(scheduler.pids("ran")) == 1

    def test_not_by_a_runner_that_stood_still(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo ran")
        scheduler.prepare([order])
        os.kill(scheduler.runner.pid, signal.SIGSTOP)
        scheduler.start_all([order])
        time.sleep(2 * client.PREPARED_SECONDS + 0.5)
        os.kill(scheduler.runner.pid, signal.SIGCONT)
        assert scheduler.end(order.run_id).trouble == ""
        assert scheduler.text(scheduler.ended[order.run_id]) == "ran\n"

    def test_when_another_scheduler_comes_at_the_very_moment(
        self, new_scheduler: "Callable[[], Scheduler]", scheduler: "Scheduler"
    ) -> None:
        scheduler.prepare([scheduler.order("echo $$ >> ran")])
        (pid,) = scheduler.ready()
        runner = scheduler.runner.pid
        os.kill(runner, signal.SIGSTOP)
        scheduler.hang_up()
        timer = threading.Timer(0.3, os.kill, (runner, signal.SIGCONT))
        timer.start()
        assert [found.pid for found in new_scheduler().adopt()] == [runner]
        until(lambda: not scheduler.lives(pid))


def _prepare(server: Server, command: str, count: int) -> None:
    for run_id in range(1, count + 1):
        fields = {"run_id": run_id, "command": command, "folder": os.getcwd(), "environment": {"PATH": "/bin"}}
        server._gates.prepare(Command(fields))
        server._gates.step()


def _opened() -> int:
    """A gate that is open already."""
    gate, opens = os.pipe()
    os.write(opens, b"\n")
    os.close(opens)
    return gate


def _outcome(process: tuple[int, int, int]) -> tuple[int, bytes, bytes]:
    pid, out, err = process
    for descriptor in (out, err):
        os.set_blocking(descriptor, True)
    with open(out, "rb") as stdout, open(err, "rb") as stderr:
        written = stdout.read(), stderr.read()
    return os.waitpid(pid, 0)[1], *written
