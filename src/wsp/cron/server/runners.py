"""The runners of a scheduler: its own, and those of dead ones until their last command has ended."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from wsp.cron.runner.client import Runner
from wsp.cron.runner.orders import Ended, Started

LAUNCH_RETRY_SECONDS = (0.1, 1.0, 5.0)  # after one that died, or could not be started; the last one again and again
STEADY_SECONDS = 10.0  # one that lived longer died of something new
CLOSE_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Runners:
    """Keeps one runner for new commands, and starts another when it dies. Lives on one event loop.

    `remember` writes down the id of a new runner, and returns when that is committed: before that it gets no orders.
    `on_ready`: there is one now that takes orders. `on_gone`: this one died, and its commands with it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_started: Callable[[Sequence[Started]], None],
        on_ended: Callable[[Sequence[Ended]], None],
        on_gone: Callable[[Runner], None],
        on_ready: Callable[[], None],
        remember: Callable[[str], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._on_started = on_started
        self._on_ended = on_ended
        self._on_gone = on_gone
        self._on_ready = on_ready
        self._remember = remember
        self._adopted: list[Runner] = []
        self._own: Runner | None = None
        self._lost_own = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.primary: Runner | None = None
        self.met: set[str] = set()
        """The ids of all runners that were ours at any time."""

    def open(self) -> None:
        """Begin to keep a runner."""
        self._task = asyncio.create_task(self._keep_primary(), name="runner")

    async def adopt(self) -> list[Runner]:
        """Take over the runners that no scheduler speaks to any more."""
        adopted = await Runner.adopt(
            self._folder, on_started=self._on_started, on_ended=self._on_ended, on_gone=self._gone
        )
        self._adopted += adopted
        return adopted

    def acknowledge(self, runner: Runner, run_ids: Sequence[int]) -> None:
        """The ends of these runs need nothing more."""
        if runner in self._all:
            runner.acknowledge(run_ids)

    def owner_of(self, run_id: int) -> Runner | None:
        """The runner that has this run."""
        return next((runner for runner in self._all if run_id in runner.runs), None)

    async def dismiss_idle(self) -> None:
        """Let those adopted runners go that have nothing left to do."""
        for runner in [runner for runner in self._adopted if not runner.runs]:
            self._adopted.remove(runner)
            await runner.close()

    async def close(self) -> None:
        """Hang up on all of them. They end when their commands have."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        runners, self._adopted, self._own, self.primary = self._all, [], None, None
        if runners:
            await asyncio.wait([asyncio.ensure_future(runner.close()) for runner in runners], timeout=CLOSE_SECONDS)

    @property
    def _all(self) -> list[Runner]:
        return [*self._adopted, self._own] if self._own else list(self._adopted)

    async def _keep_primary(self) -> None:
        failures = 0
        while True:
            self._lost_own.clear()
            launched = time.monotonic()
            try:
                self._own = await Runner.launch(
                    self._folder, on_started=self._on_started, on_ended=self._on_ended, on_gone=self._gone
                )
            except OSError as error:
                logger.error("the runner could not be started: %s", error)
            else:
                self.met.add(self._own.id)
                await self._note(self._own.id)
                if not self._lost_own.is_set():
                    self.primary = self._own
                    self._on_ready()
                    await self._lost_own.wait()
            failures = 1 if time.monotonic() - launched > STEADY_SECONDS else failures + 1
            await asyncio.sleep(LAUNCH_RETRY_SECONDS[min(failures, len(LAUNCH_RETRY_SECONDS)) - 1])

    async def _note(self, runner_id: str) -> None:
        while True:
            try:
                await self._remember(runner_id)
            except Exception:  # without a runner, nothing would ever be started again
                logger.exception("the runner %s is not noted yet", runner_id)
                await asyncio.sleep(LAUNCH_RETRY_SECONDS[-1])
            else:
                return

    def _gone(self, runner: Runner) -> None:
        logger.error("runner %s is gone, and its commands with it", runner.id)
        if runner in self._adopted:
            self._adopted.remove(runner)
        else:
            self._own = self.primary = None
            self._lost_own.set()
        self._on_gone(runner)
