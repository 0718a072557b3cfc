"""A scheduler as a runner sees it, and orders for it."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from wsp.cron.runner import frames, protocol
from wsp.cron.runner.client import Runner
from wsp.cron.runner.orders import Ended, Order, Started

from .waiting import DEADLINE_SECONDS, until

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}

T = TypeVar("T")


class Scheduler:
    """Gives orders and hears what comes of them, on an event loop in a thread of its own."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        self.outputs = folder / protocol.OUTPUTS
        self.work = work
        self.started: dict[int, Started] = {}
        self.ended: dict[int, Ended] = {}
        self.gone: list[str] = []
        self.runners: list[Runner] = []
        self.twice: list[int] = []
        self.acknowledges = True
        self.prepares = False
        self._ids = count(1)
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def runner(self) -> Runner:
        return self.runners[-1]

    def launch(self) -> "Scheduler":
        async def launched() -> None:
            self.runners.append(await Runner.launch(self.folder, **self._listeners()))

        self._call(launched())
        return self

    def adopt(self) -> list[Runner]:
        async def adopted() -> list[Runner]:
            found = await Runner.adopt(self.folder, **self._listeners())
            self.runners += found  # they say nothing before
            return found

        return self._call(adopted())

    def order(self, command: str, **fields: Any) -> Order:
        order = Order(run_id=next(self._ids), command=command, folder=str(self.work), environment=ENVIRONMENT)
        return replace(order, **fields)

    def start(self, command: str, **fields: Any) -> int:
        order = self.order(command, **fields)
        self.start_all([order])
        return order.run_id

    def prepare(self, orders: Sequence[Order], *, ready: int | None = None) -> None:
        """Have orders prepared, and wait until so many more processes stand ready, one for each by default."""
        runner = self.runner
        wanted = len(self.ready()) + (len(orders) if ready is None else ready)
        self._loop.call_soon_threadsafe(lambda: runner.prepare(orders))
        until(lambda: len(self.ready()) >= wanted)

    def drop(self, run_ids: Sequence[int]) -> None:
        runner = self.runner
        self._loop.call_soon_threadsafe(lambda: runner.drop(run_ids))

    def ready(self) -> list[int]:
        """The processes that wait for their start."""
        return [pid for pid in self.children() if b"read -r WSP_GATE" in _command_line(pid)]

    def children(self) -> list[int]:
        """Those of the runner, those that ended and were not reaped yet among them."""
        pid = self.runner.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def start_all(self, orders: Sequence[Order]) -> None:
        runner = self.runner
        if self.prepares:
            self.prepare(orders)
        self._loop.call_soon_threadsafe(lambda: runner.start(orders))

    def kill(self, run_id: int, *, reason: str = "Killed", grace: float | None = None) -> None:
        runner = self.runner
        self._loop.call_soon_threadsafe(lambda: runner.kill(run_id, reason=reason, grace=grace))

    def acknowledge(self, run_id: int) -> None:
        runner = self.runner
        self._loop.call_soon_threadsafe(lambda: runner.acknowledge([run_id]))

    def run(self, command: str, **fields: Any) -> Ended:
        return self.end(self.start(command, **fields))

    def end(self, run_id: int) -> Ended:
        self.until(lambda: run_id in self.ended)
        return self.ended[run_id]

    def begin(self, run_id: int) -> Started:
        self.until(lambda: run_id in self.started)
        return self.started[run_id]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that this scheduler hears of."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_SECONDS), "it did not happen in time"

    @staticmethod
    def text(end: Ended) -> str:
        """The output as a person sees it."""
        return frames.readable(end.output.frames)[0]

    @staticmethod
    def lives(pid: int) -> bool:
        """Is there a process with this pid that is more than a zombie?"""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return text.rpartition(")")[2].split()[0] not in ("Z", "X")

    def pids(self, name: str) -> list[int]:
        """The processes that wrote their pids to this file in the working folder."""
        path = self.work / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def hang_up(self) -> None:
        """Be gone without a word, as one that was killed."""

        async def aborted() -> None:
            self.runner._line.abort()

        self._call(aborted())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        for runner in self.runners:
            self._call(runner.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(DEADLINE_SECONDS)

    def _listeners(self) -> dict[str, Any]:
        return {"on_started": self._on_started, "on_ended": self._on_ended, "on_gone": self._on_gone}

    def _on_started(self, starts: Sequence[Started]) -> None:
        with self._changed:
            self.started.update({start.run_id: start for start in starts})
            self._changed.notify_all()

    def _on_ended(self, ends: Sequence[Ended]) -> None:
        with self._changed:
            self.twice += [end.run_id for end in ends if end.run_id in self.ended]
            self.ended.update({end.run_id: end for end in ends})
            if self.acknowledges:
                for runner in self.runners:
                    runner.acknowledge([end.run_id for end in ends if end.run_id in runner.runs])
            self._changed.notify_all()

    def _on_gone(self, runner: Runner) -> None:
        with self._changed:
            self.gone.append(runner.id)
            self._changed.notify_all()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that commands start in."""
    folder = tmp_path / "work"
    folder.mkdir(mode=0o777)
    return folder


@pytest.fixture
def new_scheduler(tmp_path: Path, work: Path) -> Iterator[Callable[[], Scheduler]]:
    """A function that makes schedulers of the same folder, without a runner yet. All runners end with the test."""
    schedulers: list[Scheduler] = []

    def make() -> Scheduler:
        schedulers.append(Scheduler(tmp_path / "cron", work))
        return schedulers[-1]

    yield make
    pids = {runner.pid for scheduler in schedulers for runner in scheduler.runners}
    for scheduler in schedulers:
        scheduler.close()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DEADLINE_SECONDS
    for pid in pids:
        while Scheduler.lives(pid):
            assert time.monotonic() < deadline, "a runner does not end"
            time.sleep(0.01)


@pytest.fixture
def scheduler(new_scheduler: Callable[[], Scheduler]) -> Scheduler:
    """A scheduler with a runner."""
    return new_scheduler().launch()
