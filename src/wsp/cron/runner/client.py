"""A scheduler's end of the line to a runner."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from wsp.cron.runner.orders import Ended, Order, Started


class Runner:
    """A process that runs commands. Lives on one event loop; calls back on it.

    What is started here goes on when this process dies; another one may `adopt` the runner then.
    """

    id: str
    """Part of the mark of its commands, and of their rows (`runner_id`); the same for every scheduler it has."""

    @classmethod
    async def launch(
        cls,
        folder: Path,
        *,
        on_started: Callable[[Sequence[Started]], None],
        on_ended: Callable[[Sequence[Ended]], None],
        on_gone: Callable[["Runner"], None],
    ) -> "Runner":
        """Start a runner that keeps its socket and its outputs in `folder`. Raises OSError.

        `on_gone`: it died, or the line to it broke; nothing more will be heard of its commands.
        """
        raise NotImplementedError

    @classmethod
    async def adopt(
        cls,
        folder: Path,
        *,
        on_started: Callable[[Sequence[Started]], None],
        on_ended: Callable[[Sequence[Ended]], None],
        on_gone: Callable[["Runner"], None],
    ) -> "list[Runner]":
        """Take over every runner in `folder` that no scheduler speaks to. What they had to say comes as usual."""
        raise NotImplementedError

    @property
    def runs(self) -> Collection[int]:
        """The runs that it has: started or about to be, or ended and not acknowledged yet."""
        raise NotImplementedError

    def start(self, orders: Sequence[Order]) -> None:
        """Have commands started, in this order, at once."""
        raise NotImplementedError

    def kill(self, run_id: int, *, reason: str, grace: float | None = None) -> None:
        """Have the whole tree of a command ended: SIGTERM, SIGKILL after its grace. `Ended` comes as usual."""
        raise NotImplementedError

    def acknowledge(self, run_ids: Sequence[int]) -> None:
        """Their ends are written down: forget them, and what was kept of their outputs and is not `in_file`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let the runner end as soon as it has no commands and nothing unacknowledged; hang up."""
        raise NotImplementedError
