"""The supervisor, with real child processes that misbehave on purpose."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from wsp.supervisor import BACK_OFF_SECONDS, CANNOT_START, Child, Supervisor

DEADLINE_SECONDS = 30.0

SLEEPER = "import signal; signal.pause()"


def child(code: str, name: str = "child") -> Child:
    return Child(name, [sys.executable, "-c", textwrap.dedent(code)])


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Script:
    """Plays what happens to a supervisor on a thread, while it runs on the main one."""

    def __init__(
        self, supervisor: Supervisor, play: Callable[[], None], stop_with: signal.Signals = signal.SIGTERM
    ) -> None:
        self._stop_with = stop_with
        self._thread = threading.Thread(target=self._run, args=(play,))
        self._supervisor = supervisor
        self.trouble: list[BaseException] = []

    def _run(self, play: Callable[[], None]) -> None:
        try:
            play()
        except BaseException as error:  # handed to the test's own thread
            self.trouble.append(error)
        finally:
            os.kill(os.getpid(), self._stop_with)

    def run(self) -> int:
        code = self._supervisor.run(on_started=self._thread.start)
        self._thread.join()
        if self.trouble:
            raise self.trouble[0]
        return code


def lives(pid: int) -> bool:
    """Does it run? One that has ended and waits for whoever adopted it to notice does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def only_pid(supervisor: Supervisor) -> int:
    (pid,) = supervisor.pids
    return pid


class TestRestarting:
    def test_starts_a_killed_child_again(self) -> None:
        supervisor = Supervisor([child(SLEEPER)])

        def play() -> None:
            first = only_pid(supervisor)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: supervisor.pids and only_pid(supervisor) != first)

        assert Script(supervisor, play).run() == 0

    def test_leaves_the_others_alone(self) -> None:
        supervisor = Supervisor([child(SLEEPER, "one"), child(SLEEPER, "two")])

        def play() -> None:
            victim, other = (c.process.pid for c in supervisor.children if c.process)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(supervisor.pids) == 2 and victim not in supervisor.pids)
            assert other in supervisor.pids

        assert Script(supervisor, play).run() == 0

    def test_waits_longer_for_one_that_keeps_dying(self) -> None:
        dying = child(SLEEPER)
        dying.start()
        assert dying.process is not None
        dying.process.kill()
        dying.process.wait()
        delays = [dying.note_death() for _ in range(20)]
        assert delays[0] == 0.0
        assert delays == sorted(delays)
        assert delays[-1] == BACK_OFF_SECONDS[-1]

    def test_counts_anew_after_a_steady_life(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wsp.supervisor.STEADY_SECONDS", 0.0)
        steady = child(SLEEPER)
        assert [steady.note_death() for _ in range(20)] == [0.0] * 20

    def test_restarts_one_that_exits_by_itself(self, tmp_path: Path) -> None:
        count = tmp_path / "count"
        code = f"import signal\nwith open({str(count)!r}, 'a') as f: f.write('x')\n"
        code += f"import os\nif os.path.getsize({str(count)!r}) >= 3: signal.pause()\n"
        supervisor = Supervisor([child(code)])

        def play() -> None:
            wait_until(lambda: count.exists() and count.read_text() == "xxx")

        assert Script(supervisor, play).run() == 0

    @pytest.mark.parametrize("refusals", [1, 5])
    def test_tries_again_when_the_system_has_no_room(self, refusals: int, monkeypatch: pytest.MonkeyPatch) -> None:
        real, left = subprocess.Popen, iter(range(refusals))

        def scarce(*arguments: object, **more: object) -> object:
            if next(left, None) is not None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return real(*arguments, **more)  # type: ignore[call-overload]

        monkeypatch.setattr(subprocess, "Popen", scarce)
        supervisor = Supervisor([child(SLEEPER, "one"), child(SLEEPER, "two")])
        assert Script(supervisor, lambda: wait_until(lambda: len(supervisor.pids) == 2)).run() == 0

    def test_gives_up_on_one_that_cannot_start(self) -> None:
        supervisor = Supervisor([child(f"raise SystemExit({CANNOT_START})"), child(SLEEPER, "other")])
        assert supervisor.run() == 1
        assert supervisor.pids == set()

    def test_does_not_give_up_once_everything_was_ready(self, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        code = f"""
            import os, signal
            if not os.path.exists({str(flag)!r}):
                open({str(flag)!r}, "w").close()
                signal.pause()
            raise SystemExit({CANNOT_START})
        """
        supervisor = Supervisor([child(code)])

        def play() -> None:
            wait_until(flag.exists)
            supervisor.ready.set()
            os.kill(only_pid(supervisor), signal.SIGKILL)
            wait_until(lambda: supervisor.children[0].starts >= 3)

        assert Script(supervisor, play).run() == 0


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_ends_every_child_on(self, number: signal.Signals) -> None:
        supervisor = Supervisor([child(SLEEPER, "one"), child(SLEEPER, "two")], ends_at_hangup=True)
        seen: set[int] = set()

        assert Script(supervisor, lambda: seen.update(supervisor.pids), stop_with=number).run() == 0
        assert len(seen) == 2
        assert not any(lives(pid) for pid in seen)

    def test_kills_one_that_does_not_listen(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("wsp.supervisor.STOP_SECONDS", 0.3)
        flag = tmp_path / "deaf"
        code = f"""
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open({str(flag)!r}, "w").close()
            while True: signal.pause()
        """
        supervisor = Supervisor([child(code)])
        seen: set[int] = set()

        def play() -> None:
            wait_until(flag.exists)
            seen.update(supervisor.pids)

        assert Script(supervisor, play).run() == 0
        assert not any(lives(pid) for pid in seen)

    def test_gives_a_child_the_time_that_it_asks_for(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("wsp.supervisor.STOP_SECONDS", 0.3)
        ready, ended = tmp_path / "ready", tmp_path / "ended"
        code = f"""
            import signal, sys, time
            def stop(*_):
                time.sleep(1)
                open({str(ended)!r}, "w").close()
                sys.exit()
            signal.signal(signal.SIGTERM, stop)
            open({str(ready)!r}, "w").close()
            while True: signal.pause()
        """
        slow = child(code)
        slow.stop_seconds = DEADLINE_SECONDS
        assert Script(Supervisor([slow]), lambda: wait_until(ready.exists)).run() == 0
        assert ended.exists()

    def test_puts_the_signal_handlers_back(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        supervisor = Supervisor([child(f"raise SystemExit({CANNOT_START})")])
        supervisor.run()
        assert signal.getsignal(signal.SIGTERM) == before

    def test_children_do_not_get_the_terminals_signals(self) -> None:
        supervisor = Supervisor([child(SLEEPER)])

        def play() -> None:
            assert os.getpgid(only_pid(supervisor)) != os.getpgid(0)
            assert os.getsid(only_pid(supervisor)) == os.getsid(0)

        assert Script(supervisor, play).run() == 0

    def test_children_have_no_standard_input(self, tmp_path: Path) -> None:
        answer = tmp_path / "answer"
        code = f"import os, signal; open({str(answer)!r}, 'w').write(os.readlink('/proc/self/fd/0')); signal.pause()"
        supervisor = Supervisor([child(code)])
        assert Script(supervisor, lambda: wait_until(lambda: answer.exists() and answer.read_text())).run() == 0
        assert answer.read_text() == "/dev/null"


class TestHangup:
    def test_is_passed_on_and_ends_nobody(self, tmp_path: Path) -> None:
        ready, heard = tmp_path / "ready", tmp_path / "heard"
        code = f"""
            import signal
            signal.signal(signal.SIGHUP, lambda *_: open({str(heard)!r}, "w").close())
            open({str(ready)!r}, "w").close()
            while True: signal.pause()
        """
        supervisor = Supervisor([child(code)])

        def play() -> None:
            wait_until(ready.exists)
            pid = only_pid(supervisor)
            os.kill(os.getpid(), signal.SIGHUP)
            wait_until(heard.exists)
            assert only_pid(supervisor) == pid

        assert Script(supervisor, play).run() == 0


class TestEndingWithTheParent:
    def test_a_child_goes_when_its_parent_is_killed(self, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        grandchild = f"""
            import os, signal, sys
            from wsp.supervisor import end_with_parent
            end_with_parent(int(sys.argv[1]))
            with open({str(pid_file)!r} + ".new", "w") as f: f.write(str(os.getpid()))
            os.rename({str(pid_file)!r} + ".new", {str(pid_file)!r})
            signal.pause()
        """
        code = f"""
            import os, subprocess, sys
            subprocess.run([sys.executable, "-c", {textwrap.dedent(grandchild)!r}, str(os.getpid())])
        """
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as parent:
            wait_until(pid_file.exists)
            parent.kill()
        wait_until(lambda: not lives(int(pid_file.read_text())))

    def test_exits_when_the_parent_is_gone_already(self) -> None:
        code = "from wsp.supervisor import end_with_parent; end_with_parent(1 << 30); print('still here')"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout == ""
