"""A runner and the schedulers that come and go."""

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsp.cron.runner import client, protocol
from wsp.cron.runner.procfs import start_time

from .waiting import until

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

# A scheduler in a process of its own, which starts what it was told, says so, and is then killed.
VICTIM = """
import asyncio, sys
from pathlib import Path
from wsp.cron.runner.client import Runner
from wsp.cron.runner.orders import Order

async def main():
    started = asyncio.Event()
    folder, work, *commands = sys.argv[1:]
    runner = await Runner.launch(
        Path(folder),
        on_started=lambda starts: started.set() if len(commands) == len(starts) else None,
        on_ended=lambda ends: None,
        on_gone=print,
    )
    environment = {"PATH": "/usr/bin:/bin"}
    runner.start([Order(n, command, work, environment) for n, command in enumerate(commands, 1)])
    await started.wait()
    print(runner.id, runner.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def victim(tmp_path: Path, work: Path, end_runners: Callable[[Path], None]) -> Iterator[Callable[..., tuple[str, int]]]:
    """A function that has a scheduler start commands, kills it with SIGKILL, and returns its runner's id and pid.

    The runners end with the test.
    """

    def live_and_die(*commands: str) -> tuple[str, int]:
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(tmp_path / "cron"), str(work), *commands],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            runner_id, pid = process.stdout.readline().split()
            process.kill()
        return runner_id, int(pid)

    yield live_and_die
    end_runners(tmp_path)


class TestAdopt:
    def test_the_real_outcomes_are_told(
        self, victim: Callable[..., tuple[str, int]], new_scheduler: "Callable[[], Scheduler]", work: Path
    ) -> None:
        wait = "until [ -e go ]; do sleep 0.02; done"
        runner_id, _ = victim(f"echo before; {wait}; echo after; exit 5", f"{wait}; kill -9 $$", "sleep 600")
        scheduler = new_scheduler()
        (runner,) = scheduler.adopt()
        assert runner.id == runner_id
        assert set(runner.runs) == {1, 2, 3}
        scheduler.until(lambda: set(scheduler.started) == {1, 2, 3})
        (work / "go").touch()
        end = scheduler.end(1)
        assert (end.exit_code, scheduler.text(end)) == (5, "before\nafter\n")
        assert scheduler.end(2).exit_code == 137
        scheduler.kill(3, reason="Enough")
        assert (scheduler.end(3).cause, scheduler.end(3).exit_code) == ("kill", 143)
        assert scheduler.twice == []

    def test_ends_that_nobody_heard_of_are_told(
        self, victim: Callable[..., tuple[str, int]], new_scheduler: "Callable[[], Scheduler]", work: Path
    ) -> None:
        victim("echo done; sleep 0.3; touch over; exit 6")
        until((work / "over").exists)
        scheduler = new_scheduler()
        (runner,) = scheduler.adopt()
        assert scheduler.end(1).exit_code == 6
        assert scheduler.text(scheduler.end(1)) == "done\n"
        scheduler.until(lambda: not runner.runs)

    def test_they_are_told_again_until_they_are_acknowledged(self, new_scheduler: "Callable[[], Scheduler]") -> None:
        first = new_scheduler().launch()
        first.acknowledges = False
        run_id = first.start("echo once; exit 9")
        end = first.end(run_id)
        first.close()
        second = new_scheduler()
        assert len(second.adopt()) == 1
        assert second.end(run_id) == end
        second.close()
        until(lambda: list((second.folder / "runner").iterdir()) == [])  # it has nothing more to say, and ended

    def test_new_orders_are_carried_out(
        self, victim: Callable[..., tuple[str, int]], new_scheduler: "Callable[[], Scheduler]"
    ) -> None:
        victim("sleep 600")
        scheduler = new_scheduler()
        scheduler.adopt()
        assert scheduler.run("exit 2", run_id=50).exit_code == 2
        scheduler.start("true", run_id=1)
        scheduler.run("true", run_id=51)
        assert 1 not in scheduler.ended  # it is still the first one
        scheduler.kill(1)
        assert scheduler.end(1).cause == "kill"

    def test_one_scheduler_at_a_time(self, new_scheduler: "Callable[[], Scheduler]") -> None:
        first, second = new_scheduler().launch(), new_scheduler()
        run_id = first.start("sleep 600")
        first.begin(run_id)
        assert second.adopt() == []
        assert first.run("true").exit_code == 0
        first.close()
        assert [runner.id for runner in second.adopt()] == [first.runner.id]

    def test_what_a_dead_one_left_is_removed(
        self, victim: Callable[..., tuple[str, int]], new_scheduler: "Callable[[], Scheduler]", work: Path
    ) -> None:
        runner_id, pid = victim("echo $$ > pids; exec sleep 600")
        until((work / "pids").exists)
        os.kill(pid, signal.SIGKILL)
        scheduler = new_scheduler()
        until(lambda: not scheduler.lives(pid))
        assert (scheduler.folder / "runner" / f"{runner_id}.sock").exists()
        assert scheduler.adopt() == []
        assert list((scheduler.folder / "runner").iterdir()) == []
        until(lambda: scheduler.pids("pids"))
        os.kill(scheduler.pids("pids")[0], signal.SIGKILL)

    def test_a_long_path(self, tmp_path: Path, work: Path, new_scheduler: "Callable[[], Scheduler]") -> None:
        deep = tmp_path / ("x" * 100) / ("y" * 100)
        deep.mkdir(parents=True)
        first, second = new_scheduler(), new_scheduler()
        first.folder = second.folder = deep
        first.launch()
        run_id = first.start("sleep 600")
        first.begin(run_id)
        first.close()
        assert len(second.adopt()) == 1
        second.kill(run_id)
        assert second.end(run_id).cause == "kill"


class TestAlone:
    def test_ends_wait_for_a_scheduler_from_when_they_came_about(self, tmp_path: Path, work: Path) -> None:
        """Not from when the last one left: a command may take days."""
        program = (
            "import wsp.cron.runner.server as server\n"
            "server.KEEP_SECONDS = 1.0\n"
            "from wsp.cron.runner.__main__ import main\n"
            f"main(['--folder', {str(tmp_path)!r}, '--id', 'x'])\n"
        )
        order = {"run_id": 1, "command": "sleep 1.5; touch over", "folder": str(work), "environment": {"PATH": "/bin"}}
        ours, theirs = socket.socketpair()
        with subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno()) as runner:
            theirs.close()
            ours.sendall(json.dumps({"start": [order]}).encode() + b"\n")
            while b"started" not in ours.recv(65536):
                pass
            ours.close()
            assert runner.wait(60) == 0
            assert time.time() - (work / "over").stat().st_mtime >= 0.95

    @pytest.mark.parametrize("gone", ["the socket", "the folder", "another socket"])
    def test_one_that_nobody_can_find_ends_with_its_commands(
        self, victim: Callable[..., tuple[str, int]], tmp_path: Path, work: Path, gone: str
    ) -> None:
        """And not with ends that wait for an hour."""
        runner_id, pid = victim("until [ -e go ]; do sleep 0.02; done; touch over")
        folder = tmp_path / "cron" / "runner"
        with _open_process(pid) as process:
            if gone == "the folder":
                shutil.rmtree(tmp_path / "cron")
            else:
                (folder / protocol.socket_name(runner_id)).unlink()
            if gone == "another socket":
                (folder / protocol.socket_name(runner_id)).touch()
            assert not process.wait(0.3), "it has a command to look after"
            (work / "go").touch()
            assert process.wait(60), "it waits for nobody"
        assert (work / "over").exists()


class TestGone:
    def test_is_told(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("echo $$ > pids; exec sleep 600")
        scheduler.begin(run_id)
        until(lambda: scheduler.pids("pids"))
        os.kill(scheduler.runner.pid, signal.SIGKILL)
        scheduler.until(lambda: scheduler.gone == [scheduler.runner.id])
        assert set(scheduler.runner.runs) == {run_id}
        assert scheduler.launch().run("true").exit_code == 0  # with another one
        os.kill(scheduler.pids("pids")[0], signal.SIGKILL)

    def test_leaves_no_zombie(self, scheduler: "Scheduler") -> None:
        os.kill(scheduler.runner.pid, signal.SIGKILL)
        scheduler.until(lambda: scheduler.gone)
        until(lambda: not Path(f"/proc/{scheduler.runner.pid}").exists())

    def test_is_no_surprise_after_close(self, new_scheduler: "Callable[[], Scheduler]") -> None:
        scheduler = new_scheduler().launch()
        pid = scheduler.runner.pid
        scheduler.run("true")
        scheduler.close()
        until(lambda: not scheduler.lives(pid))
        assert scheduler.gone == []
        assert list((scheduler.folder / "runner").iterdir()) == []

    def test_one_that_was_still_being_launched_goes_with_the_wish(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launched: list[int] = []

        def spawn(*arguments: Any) -> int:
            launched.append(_spawn(*arguments))
            return launched[0]

        async def main() -> None:
            nothing: dict[str, Any] = dict.fromkeys(["on_started", "on_ended", "on_gone"], print)
            launching = asyncio.create_task(client.Runner.launch(tmp_path, **nothing))
            while not launched:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(0)
            launching.cancel()
            await asyncio.gather(launching, return_exceptions=True)
            async with asyncio.timeout(20):
                while start_time(launched[0]) is not None:  # noqa: ASYNC110 - nothing sets an event
                    await asyncio.sleep(0.02)

        _spawn = client._spawn
        monkeypatch.setattr(client, "_spawn", spawn)
        asyncio.run(main())

    def test_a_runner_that_cannot_start_says_why(self, new_scheduler: "Callable[[], Scheduler]") -> None:
        scheduler = new_scheduler()
        scheduler.folder.mkdir()
        (scheduler.folder / "output").write_text("in the way")
        with pytest.raises(OSError, match=r"(?s)the process that runs commands cannot be started: .*FileExistsError"):
            scheduler.launch()


class TestLine:
    """What no scheduler of ours would say."""

    @pytest.fixture
    def line(self, new_scheduler: "Callable[[], Scheduler]", victim: Callable[..., tuple[str, int]]) -> socket.socket:
        scheduler = new_scheduler()
        runner_id, _ = victim("sleep 600")
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(60)
        descriptor = os.open(scheduler.folder / "runner", os.O_PATH)
        line.connect(f"/proc/self/fd/{descriptor}/{protocol.socket_name(runner_id)}")
        os.close(descriptor)
        return line

    @pytest.mark.parametrize(
        "nonsense",
        [
            b"\xff\xfe\n",
            b"{\n",
            b"[]\n",
            b"[" * 100_000 + b"\n",
            b'{"start": 7}\n{"start": [7, {}, {"run_id": "x"}, {"run_id": true}]}\n',
            b'{"kill": 7}\n{"kill": [1]}\n{"kill": [[], 2, 3]}\n{"kill": [7, "x", "soon"]}\n',
            b'{"acknowledge": {}}\n{"acknowledge": [[], {}, "x", 77]}\n',
            b'{"hello": 1, "what": null}\n\n',
        ],
        ids=["bytes", "half", "a list", "deep", "start", "kill", "acknowledge", "unknown"],
    )
    def test_nonsense_is_passed_over(self, line: socket.socket, nonsense: bytes) -> None:
        order = {"run_id": 5, "command": "exit 3", "folder": "/", "environment": {}, "unheard_of": 1}
        with line, line.makefile("rb") as messages:
            hello = json.loads(messages.readline())
            assert hello["runs"] == [1]
            line.sendall(nonsense + json.dumps({"start": [order]}).encode() + b"\n")
            for message in map(json.loads, messages):
                if any(end["run_id"] == 5 for end in message.get("ended", [])):
                    assert message["ended"][0]["exit_code"] == 3
                    break
            line.sendall(b'{"acknowledge": [5]}\n{"kill": [1, "", 0]}\n')
            assert any("ended" in json.loads(message) for message in messages)
            line.sendall(b'{"acknowledge": [1]}\n')

    def test_an_order_that_makes_no_sense_has_ended(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as messages:
            line.sendall(b'{"start": [{"run_id": 5, "command": 7}]}\n')
            ends = [end for message in map(json.loads, _until_ended(messages)) for end in message.get("ended", [])]
            assert "command is missing, or not what it should be" in ends[0]["trouble"]
            line.sendall(b'{"acknowledge": [5]}\n{"kill": [1, "", 0]}\n')
            assert any("ended" in json.loads(message) for message in messages)
            line.sendall(b'{"acknowledge": [1]}\n')

    def test_a_scheduler_that_does_not_listen(
        self, line: socket.socket, new_scheduler: "Callable[[], Scheduler]", work: Path
    ) -> None:
        """It gives orders, and reads nothing of what comes of them: the runner goes on, and the next one hears all."""
        command = "head -c 60000 /dev/zero; touch $N"
        orders = [
            {"run_id": n, "command": command, "folder": str(work), "environment": {"PATH": "/bin", "N": str(n)}}
            for n in range(10, 60)
        ]
        with line:
            line.sendall(json.dumps({"start": orders}).encode() + b'\n{"kill": [1, "", 0]}\n')
            until(lambda: len(list(work.iterdir())) == 50)
        scheduler = new_scheduler()
        until(scheduler.adopt)
        ends = [scheduler.end(n) for n in [1, *range(10, 60)]]
        assert {end.output.total_bytes for end in ends[1:]} == {60_000}


class _Process:
    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def wait(self, seconds: float) -> bool:
        """Has it ended, by then?"""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def close(self) -> None:
        os.close(self._descriptor)


def _open_process(pid: int) -> "closing[_Process]":
    return closing(_Process(pid))


def _until_ended(messages: "object") -> list[bytes]:
    found = []
    for message in messages:  # type: ignore[attr-defined]
        found.append(message)
        if b'"ended"' in message:
            break
    return found
