"""A command that runs, and what its ending has come to."""

import time

from wsp.cron.runner.command import Command
from wsp.cron.runner.frames import STDERR, STDOUT
from wsp.cron.runner.keeping import Kept
from wsp.cron.runner.masking import Masking, Secrets
from wsp.cron.runner.timers import Timer


class Run:
    """One run from the start of its command until its end is told."""

    __slots__ = (
        "at",
        "cause",
        "clock",
        "command",
        "drain_timer",
        "ended_at",
        "ended_clock",
        "exit_code",
        "flush_timer",
        "kept",
        "limit",
        "mark",
        "masks",
        "pid",
        "pid_started",
        "pipes",
        "reason",
        "timeout_timer",
        "usage",
    )

    def __init__(self, command: Command, kept: Kept, mark: str) -> None:
        self.command = command
        self.kept = kept
        self.mark = mark
        self.limit = 0  # its RLIMIT_MSGQUEUE, see procfs
        secrets = Secrets(command.secrets) if command.secrets else None
        self.masks = {stream: Masking(secrets) for stream in (STDOUT, STDERR)} if secrets and secrets.values else {}
        self.pid = self.pid_started = 0
        self.pipes: set[int] = set()
        self.at = time.time()
        self.clock = time.monotonic()
        self.ended_at = self.ended_clock = 0.0
        self.exit_code: int | None = None
        self.usage: tuple[int, int | None] | None = None
        self.cause = self.reason = ""
        self.flush_timer: Timer | None = None
        self.drain_timer: Timer | None = None
        self.timeout_timer: Timer | None = None

    @property
    def ended(self) -> bool:
        """Has the command itself ended? What it started may go on."""
        return self.ended_clock > 0

    def end(self, exit_code: int | None, usage: tuple[int, int | None] | None) -> None:
        """It has, now. `usage` is cpu_ms and memory_kb."""
        self.exit_code = exit_code
        self.usage = usage
        self.ended_clock = time.monotonic()
        self.ended_at = time.time()

    def add(self, stream: int, data: bytes) -> bool:
        """Take output. Returns whether some waits to be flushed that did not before."""
        if self.masks:
            data = self.masks[stream].feed(data)
        return self.kept.add(stream, data)
