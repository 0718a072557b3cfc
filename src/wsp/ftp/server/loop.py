"""The event loop of one FTP process: pyftpdlib's, with a way in for signals and other threads.

pyftpdlib's loop can be woken by sockets alone, and nothing of it may be touched from another thread. Both reach it
here through a socket pair and a queue: what is queued runs on the loop.
"""

import logging
import queue
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from pyftpdlib.ioloop import IOLoop

TURN_SECONDS = 1.0  # the loop turns at least this often, so that its heartbeat means something
HEALTHY_SECONDS = 3.0  # a loop that has not turned for so long is stuck

logger = logging.getLogger(__name__)


class Loop:
    """Runs until `stop()`. `call()` is the only method that other threads and signal handlers may use."""

    def __init__(self) -> None:
        self.io = IOLoop()
        self._calls: deque[Callable[[], None]] = deque()
        self._inlet, self._outlet = socket.socketpair()
        self._inlet.setblocking(False)
        self._outlet.setblocking(False)
        self._running = True
        self._turned_at = time.monotonic()
        self.io.register(self._outlet.fileno(), _Wake(self), self.io.READ)

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` run on the loop, soon."""
        self._calls.append(function)
        try:
            self._inlet.send(b"\0")
        except BlockingIOError:
            return  # so many wake-ups are waiting already that one more makes no difference

    def catch_signals(self, handler: Callable[[], None], *, on_hangup: Callable[[], None]) -> None:
        """Run `handler` on the loop at SIGTERM and SIGINT, `on_hangup` at SIGHUP. Main thread only."""
        # The wake-up descriptor ends the poll even when the signal arrives just before it begins.
        signal.set_wakeup_fd(self._inlet.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.call(handler))
        signal.signal(signal.SIGHUP, lambda *_: self.call(on_hangup))

    def run(self) -> None:
        """Serve until `stop()`."""
        timeout: float = 0
        while self._running:
            self.io.poll(timeout)
            self._run_calls()
            self._turned_at = time.monotonic()
            next_task = self.io.sched.poll()
            timeout = 0 if self._calls else min(TURN_SECONDS, TURN_SECONDS if next_task is None else next_task)

    def stop(self) -> None:
        """End `run()` after the present turn."""
        self._running = False

    def is_turning(self) -> bool:
        """Whether the loop came round lately; false while something blocks it."""
        return time.monotonic() - self._turned_at < HEALTHY_SECONDS

    def close(self) -> None:
        """Close every socket that is still registered, then the wake-up pair."""
        signal.set_wakeup_fd(-1)
        self.io.unregister(self._outlet.fileno())
        self.io.close()
        self._inlet.close()
        self._outlet.close()

    def drain_wakeups(self) -> None:
        """Empty the pair; the calls themselves run once per turn."""
        try:
            while self._outlet.recv(4096):
                continue
        except BlockingIOError:
            return

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):
            function = self._calls.popleft()
            try:
                function()
            except Exception:
                logger.exception("a call onto the loop failed")


class _Wake:
    """What pyftpdlib's poller asks of a registered object, for the reading end of the pair."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._loop.drain_wakeups()

    def handle_error(self) -> None:
        logger.exception("the loop's wake-up failed")

    def handle_close(self) -> None:
        logger.error("the loop's wake-up pair was closed")


class Offload:
    """A few threads for what must not run on the loop, with a bounded queue.

    The threads are daemons: a database that does not answer must not hold up the end of the process.
    """

    def __init__(self, loop: Loop, *, name: str, threads: int, waiting: int) -> None:
        self._loop = loop
        self._jobs: queue.Queue[Callable[[], Callable[[], None]]] = queue.Queue(maxsize=waiting)
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, job: Callable[[], Callable[[], None]]) -> bool:
        """Run `job` on a thread, then what it returns on the loop. False: too many are waiting already.

        A job must handle its own errors: one that raises leaves its session without an answer.
        """
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                then = job()
            except Exception:
                logger.exception("a job off the loop failed")
                continue
            self._loop.call(then)
            # Nothing of a finished login (its password least of all) stays behind while the thread waits.
            del job, then
