"""Runs one command the way cron does: crontab(5), with `/bin/sh -c`, no standard input and a small environment.

No database and no settings here. Everything that the command and its children write is read until the command
has ended, so that it is never blocked by a full pipe.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsp.cron.output import BoundedOutput
from wsp.cron.processes import MARK_VARIABLE, Process, start_time

SHELL = "/bin/sh"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DRAIN_SECONDS = 1.0  # how long a grandchild may hold the output open after the command itself has ended
_CHUNK_BYTES = 65536  # the size of a pipe


class CannotStart(Exception):
    """The command could not be started; the message is a sentence for its owner."""


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `exit_code` is as a shell tells it: 128 + n for a command that signal n ended."""

    exit_code: int
    output: str
    output_truncated: bool


@dataclass(frozen=True)
class Started:
    """A command that runs. Someone has to `finish` it."""

    process: Process
    popen: "subprocess.Popen[bytes]"


def environment(owner: str, home: Path, mark: str) -> dict[str, str]:
    """The environment of a command: what cron gives, and the mark by which its processes are found again."""
    return {
        "HOME": str(home),
        "LOGNAME": owner,
        "USER": owner,
        "SHELL": SHELL,
        "PATH": PATH,
        MARK_VARIABLE: mark,
    }


def start(command: str, *, folder: Path, environment: Mapping[str, str]) -> Started:
    """Start `command` in a session of its own. Raises CannotStart. Blocks for about a millisecond."""
    try:
        # No preexec_fn, user or group here: with them, Python forks the whole server instead of using vfork(2).
        popen = subprocess.Popen(  # noqa: S603 - running its owner's command is what a cron job is
            [SHELL, "-c", command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CannotStart(_sentence(error, folder)) from error
    # Until it is reaped, in `finish`, even a command that has ended already has a start time.
    return Started(Process(popen.pid, start_time(popen.pid) or 0), popen)


def _sentence(error: OSError | ValueError, folder: Path) -> str:
    if not folder.is_dir():
        return "The command could not be started: its working folder is missing"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"The command could not be started: {reason}"


async def finish(started: Started, max_output_bytes: int) -> Outcome:
    """Wait until the command has ended, and return what came of it. Call on the event loop.

    A child that the command leaves behind may go on; its output is taken for DRAIN_SECONDS more.
    """
    popen = started.popen
    assert popen.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
    pipe = popen.stdout.fileno()
    os.set_blocking(pipe, False)
    output = BoundedOutput(max_output_bytes)
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    ended = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            output.add(data)
        else:
            loop.remove_reader(pipe)
            closed.set()

    # A descriptor of the process instead of asyncio's own watcher, which takes a thread for each child on Python 3.11.
    watch = os.pidfd_open(popen.pid)
    try:
        loop.add_reader(pipe, read)
        loop.add_reader(watch, ended.set)
        await ended.wait()
        loop.remove_reader(watch)
        status = popen.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), DRAIN_SECONDS)
    finally:
        loop.remove_reader(watch)
        loop.remove_reader(pipe)
        os.close(watch)
        popen.stdout.close()
    return Outcome(status if status >= 0 else 128 - status, output.text(), output.truncated)
