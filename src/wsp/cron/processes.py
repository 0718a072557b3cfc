"""The processes of a run, found in /proc: proc(5). Linux only.

A command's tree is its session (it was started as the leader of one) and every process that inherited the mark
in its environment, so that a child that left the session with setsid(2) is found as well; and every process without
any mark that inherited the resource limit by which the runner marks commands once more, see `wsp.cron.runner.procfs`.
"""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wsp.cron.runner.procfs import MARK_VARIABLE, limit_of, run_limit

_MARKED = f"{MARK_VARIABLE}=".encode()
_POLL_SECONDS = 0.02
_KILL_SECONDS = 1.0  # SIGKILL is not refused, but a process in an uninterruptible sleep takes its time

# Indexes into /proc/<pid>/stat, counted after the command name, which may itself hold spaces and parentheses.
_STATE, _SESSION, _START_TIME = 0, 3, 19


@dataclass(frozen=True)
class Process:
    """One process of this boot, told from a later one with the same pid by its start, in clock ticks since boot."""

    pid: int
    started: int


@cache
def boot_id() -> str:
    """The kernel's name of this boot: pids mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot, None when there is none."""
    stat = _stat(pid)
    return int(stat[_START_TIME]) if stat else None


def find_tree(marks: Collection[str], leaders: Collection[Process] = ()) -> set[Process]:
    """What still runs of the commands with these marks, or in the sessions of these leaders. Blocks a few ms.

    A session counts only while its leader is the very process that was recorded: a stranger who was given the same
    pid later is left alone.
    """
    sessions = {leader.pid for leader in leaders if start_time(leader.pid) == leader.started}
    variables = {f"{MARK_VARIABLE}={mark}".encode() for mark in marks}
    limits = {run_limit(mark) for mark in marks} - {0}
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        pid = int(entry)
        stat = _stat(pid)
        if stat is None or stat[_STATE] in ("Z", "X") or pid == os.getpid():
            continue
        if int(stat[_SESSION]) in sessions or _is_marked(pid, variables, limits):
            found.add(Process(pid, int(stat[_START_TIME])))
    return found


def end_tree(marks: Collection[str], leaders: Collection[Process] = (), *, grace: float) -> int:
    """End what `find_tree` finds: SIGTERM, SIGKILL after `grace` seconds. Blocks until all are gone or given up.

    Returns how many processes were there at first.
    """
    living = find_tree(marks, leaders)
    count = len(living)
    told: set[Process] = set()
    deadline = time.monotonic() + grace
    while living and time.monotonic() < deadline:
        for process in living - told:  # children born meanwhile are told as well
            _send(process, signal.SIGTERM)
        told |= living
        time.sleep(_POLL_SECONDS)
        # A leader that is gone no longer vouches for its session, but those already found stay known.
        living = find_tree(marks, leaders) | {process for process in told if _lives(process)}
    deadline = time.monotonic() + _KILL_SECONDS
    while living and time.monotonic() < deadline:
        for process in living:
            _send(process, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        living = find_tree(marks, leaders) | {process for process in living if _lives(process)}
    return count


def _send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: the descriptor is opened first, and the start time compared afterwards."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if start_time(process.pid) == process.started:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _lives(process: Process) -> bool:
    stat = _stat(process.pid)
    return stat is not None and int(stat[_START_TIME]) == process.started and stat[_STATE] not in ("Z", "X")


def _is_marked(pid: int, variables: set[bytes], limits: set[int]) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return False
    if any(variable.startswith(_MARKED) for variable in environment):
        return not variables.isdisjoint(environment)
    # It was never marked, or dropped its environment. Others may have the same limit, but those have their own mark.
    return bool(limits) and limit_of(pid) in limits


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
