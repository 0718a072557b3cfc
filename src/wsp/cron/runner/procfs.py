"""Processes as /proc shows them, and what marks those of a run: proc(5). Linux only.

A command's processes are known by its session (it was started as the leader of one), by descent, by the mark in their
environment, and by a resource limit that they inherit. A child that called setsid(2) has left the session; one that
forked twice has no parent of ours; `env -i` drops the environment. The limit survives all of that, as long as nobody
sets it: RLIMIT_MSGQUEUE, which nothing but POSIX message queues looks at. Its soft value is a number of the run's own
in the upper half of what is allowed.
"""

import errno
import os
import resource
import signal

MARK_VARIABLE = "WSP_RUN_ID"
"""Set in the environment of every command to `<runner id>-<run id>`: unique on this machine, across restarts."""

_LIMIT = b"Max msgqueue size"
_READ_BYTES = 131072  # more than an environment commonly has
_LARGEST_SPREAD = 2**40  # where the hard limit is infinity

# Indexes into /proc/<pid>/stat, counted after the command name, which may itself hold spaces and parentheses.
_STATE, _PARENT, _GROUP, _SESSION, _THREADS, _START_TIME = 0, 1, 2, 3, 17, 19


class Stat:
    """What the kernel says of a process. `started` is clock ticks since boot: it tells one pid's owners apart."""

    __slots__ = ("group", "lives", "parent", "pid", "session", "started")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        # Not just an entry that waits to be read by its parent. Threads may go on when the first one has ended.
        self.lives = fields[_STATE] not in (b"Z", b"X") or int(fields[_THREADS]) > 1
        self.parent = int(fields[_PARENT])
        self.group = int(fields[_GROUP])
        self.session = int(fields[_SESSION])
        self.started = int(fields[_START_TIME])


def stat(pid: int) -> Stat | None:
    """The process with this pid, None when there is none."""
    text = _read(f"/proc/{pid}/stat", 1024)
    fields = text[text.rfind(b")") + 2 :].split()
    return Stat(pid, fields) if len(fields) > _START_TIME else None


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot, None when there is none."""
    found = stat(pid)
    return found.started if found else None


def pids() -> list[int]:
    """All processes of this machine, or of this container."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def mark_of(pid: int) -> str:
    """The mark in a process's environment, "" without one, and for a process of another user."""
    wanted = MARK_VARIABLE.encode() + b"="
    for variable in _read(f"/proc/{pid}/environ", _READ_BYTES).split(b"\0"):
        if variable.startswith(wanted):
            return variable[len(wanted) :].decode("ascii", "replace")
    return ""


def limit_of(pid: int) -> int:
    """The soft value of a process's RLIMIT_MSGQUEUE, 0 when it has none that could be a run's."""
    text = _read(f"/proc/{pid}/limits", 4096)
    at = text.find(_LIMIT)
    words = text[at + len(_LIMIT) : at + 80].split() if at >= 0 else []
    return int(words[0]) if words and words[0].isdigit() else 0


def run_limit(mark: str) -> int:
    """The soft RLIMIT_MSGQUEUE of the processes with this mark, 0 where the hard limit leaves no room for any.

    Different for any two runs of a runner whose ids are not some hundred thousands apart.
    """
    hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = _LARGEST_SPREAD
    spread = hard // 2
    runner, _, run = mark.rpartition("-")
    if spread < 2 or not run.isdecimal():
        return 0
    # Never the hard limit itself: that is what everybody else has.
    return hard - 1 - (int.from_bytes(runner.encode()[-8:], "big") + int(run)) % spread


def send(pid: int, started: int, number: int) -> bool:
    """Signal exactly the process that started then. Returns whether it was there."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        return error.errno not in (errno.ESRCH, errno.EINVAL)  # or there is no descriptor left for now
    try:
        # The descriptor is opened first: whatever has this pid later is not what it stands for.
        if start_time(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except PermissionError:  # it became somebody else's, as sudo(8) does
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _read(path: str, size: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone, or another user's
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
