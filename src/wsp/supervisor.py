"""Child processes that are kept alive: started again when they die, stopped together and in order."""

import ctypes
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

CANNOT_START = 78  # a child's exit code for "this will not work however often you try" (EX_CONFIG, sysexits.h)

STOP_SECONDS = 9.0  # between SIGTERM and SIGKILL; what takes longer by its nature says so
STEADY_SECONDS = 10.0  # a child that lived this long is well: its next death counts as the first
BACK_OFF_SECONDS = (0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # before each restart of one that keeps dying

PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger(__name__)


def wsp_command(service: str) -> list[str]:
    """The command line of a service that runs under this process."""
    return [sys.executable, "-m", "wsp", service, "--supervised", str(os.getpid())]


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when `parent` dies, so that not even `kill -9` leaves it behind.

    Raises OSError where the kernel refuses. Exits when the parent is dead already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(0)


@dataclass
class Child:
    """One process to keep alive, and what became of it so far."""

    name: str
    command: Sequence[str]
    stop_seconds: float | None = None
    """Between SIGTERM and SIGKILL; STOP_SECONDS when not given."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    deaths_in_a_row: int = 0
    restart_at: float = field(default=float("inf"))
    killed: bool = False

    def start(self) -> None:
        """Start the process. Its standard input is empty, its outputs are ours.

        Raises OSError when the system has no room for another process.
        """
        self.started = time.monotonic()
        # A process group of its own: Ctrl-C in a terminal reaches the supervisor alone, which then stops everybody.
        self.process = subprocess.Popen(  # noqa: S603 - the command is our own
            self.command, stdin=subprocess.DEVNULL, process_group=0
        )
        self.starts += 1
        self.restart_at = float("inf")
        logger.info("started %s, pid %d", self.name, self.process.pid)

    def reap(self) -> int | None:
        """The exit code, once: when the process has ended since the last call."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        return code

    def note_death(self) -> float:
        """Decide when to start it again. Returns the seconds until then."""
        now = time.monotonic()
        self.deaths_in_a_row = 1 if now - self.started >= STEADY_SECONDS else self.deaths_in_a_row + 1
        delay = BACK_OFF_SECONDS[min(self.deaths_in_a_row, len(BACK_OFF_SECONDS)) - 1]
        self.restart_at = now + delay
        return delay


class Supervisor:
    """Runs children until SIGTERM or SIGINT. Belongs to the main thread, which handles the signals.

    SIGHUP is passed on to the children, which read again what they can. `ends_at_hangup`: it ends them instead, as the
    end of the terminal that the server was started from.
    """

    def __init__(self, children: Sequence[Child], *, ends_at_hangup: bool = False) -> None:
        self.children = list(children)
        self._ends_at_hangup = ends_at_hangup
        self._hung_up = False
        self.ready = threading.Event()  # set from outside when everything answers; until then it is starting up
        self._stop_wanted = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)

    @property
    def pids(self) -> set[int]:
        """The processes that are running now."""
        return {child.process.pid for child in self.children if child.process is not None}

    def run(self, on_started: Callable[[], None] = lambda: None) -> int:
        """Start the children and keep them alive. Returns the exit code when all are gone.

        0 after a signal; 1 when a child could not start at all (it has said why on standard error itself).
        `on_started` is called once, after the first try to start each child.
        """
        with self._signals():
            try:
                for child in self.children:
                    _start(child)
                on_started()
                return self._keep()
            finally:
                self._stop_all()

    def _keep(self) -> int:
        while not self._stop_wanted:
            now = time.monotonic()
            if self._hung_up:
                self._hung_up = False
                for child in self.children:
                    _send(child, signal.SIGHUP)
            for child in self.children:
                if (code := child.reap()) is not None:
                    if code == CANNOT_START and (child.starts == 1 or not self.ready.is_set()):
                        return 1
                    delay = child.note_death()
                    logger.error("%s %s; starting it again in %g s", child.name, _ending(code), delay)
                if child.restart_at <= time.monotonic():
                    _start(child)
            next_restart = min(child.restart_at for child in self.children)
            self._wait(None if next_restart == float("inf") else max(0.0, next_restart - now))
        return 0

    def _stop_all(self) -> None:
        running = [child for child in self.children if child.process is not None]
        for child in running:
            _send(child, signal.SIGTERM)
        began = time.monotonic()
        while running := [child for child in running if child.reap() is None]:
            now = time.monotonic()
            for child in running:
                if now >= began + _stop_seconds(child) and not child.killed:
                    logger.error("%s did not stop within %g s, killing it", child.name, _stop_seconds(child))
                    _send(child, signal.SIGKILL)
                    child.killed = True
            deadlines = [began + _stop_seconds(child) for child in running if not child.killed]
            self._wait(max(0.0, min(deadlines) - now) if deadlines else None)

    def _wait(self, timeout: float | None) -> None:
        """Sleep until a signal (SIGCHLD included) or the timeout, in seconds."""
        select.select([self._wake_r], [], [], timeout)
        try:
            while self._wake_r.recv(4096):
                pass
        except BlockingIOError:
            return

    @contextmanager
    def _signals(self) -> Iterator[None]:
        stopping = [signal.SIGTERM, signal.SIGINT]
        minds_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # nohup asks to outlive the terminal
        if minds_hangup and self._ends_at_hangup:
            stopping.append(signal.SIGHUP)
        former_fd = signal.set_wakeup_fd(self._wake_w.fileno(), warn_on_full_buffer=False)
        former = {number: signal.signal(number, self._on_stop) for number in stopping}
        if minds_hangup and not self._ends_at_hangup:
            former[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)
        former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _on_child)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former_fd)
            self._wake_r.close()
            self._wake_w.close()

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if not self._stop_wanted:
            logger.info("got %s, stopping", signal.Signals(number).name)
        self._stop_wanted = True

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self._hung_up = True


def _on_child(_number: int, _frame: FrameType | None) -> None:
    """Wake the loop up, nothing else: it looks at every child itself."""


def _start(child: Child) -> None:
    try:
        child.start()
    except OSError as error:  # no memory or no process left for now: the other services must not fall for that
        delay = child.note_death()
        logger.error("%s could not be started (%s); trying again in %g s", child.name, error.strerror, delay)


def _stop_seconds(child: Child) -> float:
    return STOP_SECONDS if child.stop_seconds is None else child.stop_seconds


def _send(child: Child, number: signal.Signals) -> None:
    if child.process is not None:
        child.process.send_signal(number)


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
