"""What a scheduler tells the runner, and what the runner tells a scheduler."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Order:
    """A command to start, with everything that has to be known for it. Times are seconds, 0 for no limit."""

    run_id: int
    command: str
    folder: str  # where it starts
    environment: Mapping[str, str]  # all of it, but for the mark that the runner adds
    shell: str = "/bin/sh"
    stdin: bytes = b""
    secrets: tuple[str, ...] = ()  # values that must not appear in its output
    user: str = ""  # the system account to run it as, "" for the runner's own
    timeout_seconds: float = 0.0
    kill_grace_seconds: float = 10.0
    max_output_bytes: int = 65536
    memory_mb: int = 0
    cpu_seconds: int = 0
    max_processes: int = 0
    nice: int = 0


@dataclass(frozen=True)
class Started:
    """A command that was started. `at` is seconds since the epoch, `pid_started` clock ticks since boot."""

    run_id: int
    pid: int
    pid_started: int
    at: float


@dataclass(frozen=True)
class Output:
    """What is kept of a command's output."""

    frames: bytes = b""  # see wsp.cron.runner.frames: pieces of stdout and stderr in the order of their arrival
    total_bytes: int = 0  # all that was written, kept or not
    in_file: bool = False  # `frames` has only an excerpt; all that is kept lies in the folder of outputs
    trouble: str = ""  # a sentence, when it could not be kept as it should have been (a full disk)


@dataclass(frozen=True)
class Ended:
    """What came of a command.

    `cause` says who ended it: "" for itself, `timeout`, or `kill` (asked for, with `reason`). `trouble` is a sentence
    when it never started. `exit_code` is as a shell tells it: 128 + n for a command that signal n ended.
    """

    run_id: int
    started_at: float | None
    ended_at: float
    duration_ms: int
    exit_code: int | None = None
    cause: str = ""
    reason: str = ""
    trouble: str = ""
    cpu_ms: int | None = None
    memory_kb: int | None = None
    output: Output = field(default_factory=Output)
