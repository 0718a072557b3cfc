"""The processes of runs whose runner is gone, found in /proc: proc(5). Linux only.

A command's tree is its session (it was started as the leader of one) and every process that inherited what marks it:
the mark in its environment, and a resource limit for those that dropped that (see wsp.cron.runner.procfs).
"""

import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wsp.cron.runner import procfs
from wsp.cron.runner.procfs import MARK_VARIABLE, start_time

__all__ = ["MARK_VARIABLE", "Process", "boot_id", "end_tree", "find_tree", "start_time"]

_POLL_SECONDS = 0.02
_KILL_SECONDS = 1.0  # SIGKILL is not refused, but a process in an uninterruptible sleep takes its time


@dataclass(frozen=True)
class Process:
    """One process of this boot, told from a later one with the same pid by its start, in clock ticks since boot."""

    pid: int
    started: int


@cache
def boot_id() -> str:
    """The kernel's name of this boot: pids mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def find_tree(marks: Collection[str], leaders: Collection[Process] = ()) -> set[Process]:
    """What still runs of the commands with these marks, or in the sessions of these leaders. Blocks a few ms.

    A session counts only while its leader is the very process that was recorded: a stranger who was given the same
    pid later is left alone. A limit counts only for what has no mark, and started no earlier than one of
    the leaders.
    """
    sessions = {leader.pid for leader in leaders if start_time(leader.pid) == leader.started}
    limits = {procfs.run_limit(mark) for mark in marks} - {0}
    since = min((leader.started for leader in leaders), default=None)
    found = set()
    for pid in procfs.pids():
        stat = procfs.stat(pid)
        if stat is None or not stat.lives or pid == os.getpid():
            continue
        mark = procfs.mark_of(pid)
        # Two runs may have the same limit; but what carries another mark belongs to that one.
        is_limited = not mark and since is not None and stat.started >= since and procfs.limit_of(pid) in limits
        if stat.session in sessions or mark in marks or is_limited:
            found.add(Process(pid, stat.started))
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
            procfs.send(process.pid, process.started, signal.SIGTERM)
        told |= living
        time.sleep(_POLL_SECONDS)
        # A leader that is gone no longer vouches for its session, but those already found stay known.
        living = find_tree(marks, leaders) | {process for process in told if _lives(process)}
    deadline = time.monotonic() + _KILL_SECONDS
    while living and time.monotonic() < deadline:
        for process in living:
            procfs.send(process.pid, process.started, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        living = find_tree(marks, leaders) | {process for process in living if _lives(process)}
    return count


def _lives(process: Process) -> bool:
    stat = procfs.stat(process.pid)
    return stat is not None and stat.started == process.started and stat.lives
