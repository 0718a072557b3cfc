"""Ends the trees of commands: SIGTERM, SIGKILL after a grace, until nothing of them is left."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from wsp.cron.runner import procfs
from wsp.cron.runner.procfs import Stat
from wsp.cron.runner.run import Run
from wsp.cron.runner.timers import Timer, Timers

GIVE_UP_SECONDS = 5.0  # SIGKILL is not refused, but a process in an uninterruptible sleep takes its time

_SLICE = 64  # processes that are looked at in one go: about a millisecond
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25  # seconds between looks
_PAUSE_FACTOR = 4  # looking takes no more than a fifth of the time
_EMPTY_LOOKS = 2  # a child that is born during a look may not be seen in it


class _Ending:
    __slots__ = ("empty_looks", "groups", "kill_at", "run", "told")

    def __init__(self, run: Run, kill_at: float) -> None:
        self.run = run
        self.kill_at = kill_at
        self.told: set[tuple[int, int]] = set()
        self.groups = {run.pid: run.pid_started}  # process groups of its, and when one of their processes started
        self.empty_looks = 0

    def living_groups(self) -> list[int]:
        """Those that have processes: who forks and ends all the time is never seen, but its group is there."""
        return [group for group, seen in self.groups.items() if _group_lives(group, seen)]


class Endings:
    """The trees that are being ended. All of them share each look at the machine's processes, which is taken in
    slices, for the output of other commands has to be read meanwhile."""

    def __init__(self, runs: Mapping[int, Run], timers: Timers, on_gone: Callable[[Run], None]) -> None:
        """`runs` are all that go on, by id."""
        self._runs = runs
        self._timers = timers
        self._on_gone = on_gone
        self._me = os.getpid()
        self._endings: dict[int, _Ending] = {}
        self._known: dict[
            int, tuple[int, Run]
        ] = {}  # by pid: when it started, and whose it was when that was to be seen
        self._look: Iterator[None] | None = None
        self._timer: Timer | None = None
        self._pause = _FIRST_PAUSE

    def __contains__(self, run: Run) -> bool:
        return run.command.run_id in self._endings

    @property
    def busy(self) -> bool:
        """Is there a step to take at once?"""
        return self._look is not None

    def begin(self, run: Run, grace: float) -> None:
        """End its tree. If that is under way already, it gets no longer than from now on."""
        kill_at = time.monotonic() + grace
        ending = self._endings.setdefault(run.command.run_id, _Ending(run, kill_at))
        ending.kill_at = min(ending.kill_at, kill_at)
        self._timers.after(max(0.0, grace), self.hurry)
        self.hurry()

    def ended(self, pid: int) -> None:
        """This process has ended, and is about to be reaped. Until then it tells what it was.

        Who forks and ends faster than anybody looks is seen here, for its orphans become children of the runner.
        """
        if pid in self._known:
            self.hurry()
        elif self._endings and (stat := procfs.stat(pid)) is not None:
            run = _Census(self._runs, {pid: stat}, self._known, self._me).run_of(stat)
            ending = self._endings.get(run.command.run_id) if run is not None else None
            if ending is not None:
                ending.groups.setdefault(stat.group, stat.started)
                ending.empty_looks = 0

    def hurry(self) -> None:
        """Something has changed: look at once."""
        self._pause = _FIRST_PAUSE
        if self._endings and self._look is None:
            self._begin_look()

    def step(self) -> None:
        """Look at some more processes; when all have been seen, act."""
        if self._look is not None and next(self._look, self) is self:
            self._look = None

    def _begin_look(self) -> None:
        self._timers.cancel(self._timer)
        self._timer = None
        self._look = self._steps()

    def _steps(self) -> Iterator[None]:
        spent = 0.0
        began = time.process_time()
        stats: dict[int, Stat] = {}
        for number, pid in enumerate(procfs.pids(), 1):
            stat = procfs.stat(pid)
            if stat is not None:
                stats[pid] = stat
            if number % _SLICE == 0:
                spent += time.process_time() - began
                yield
                began = time.process_time()
        census = _Census(self._runs, stats, self._known, self._me)
        families: dict[int, list[Stat]] = {}
        for number, stat in enumerate(stats.values(), 1):
            run = census.run_of(stat)
            if run is not None and stat.lives:
                families.setdefault(run.command.run_id, []).append(stat)
            if number % _SLICE == 0:
                spent += time.process_time() - began
                yield
                began = time.process_time()
        self._act(families, stats)
        spent += time.process_time() - began
        if self._endings:
            again = any(ending.empty_looks for ending in self._endings.values())
            pause = 0.0 if again else max(self._pause, _PAUSE_FACTOR * spent)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._timer = self._timers.after(pause, self._begin_look)

    def _act(self, families: dict[int, list[Stat]], stats: dict[int, Stat]) -> None:
        now = time.monotonic()
        for run_id, ending in list(self._endings.items()):
            family = families.get(run_id, [])
            self._known.update({member.pid: (member.started, ending.run) for member in family})
            for member in family:
                ending.groups.setdefault(member.group, member.started)
            ending.empty_looks = 0 if family or ending.living_groups() else ending.empty_looks + 1
            if ending.empty_looks >= _EMPTY_LOOKS or now > ending.kill_at + GIVE_UP_SECONDS:
                del self._endings[run_id]
                self._on_gone(ending.run)
            elif now < ending.kill_at:
                _ask(family, ending.told)
            else:
                _kill(family, ending.living_groups())
                self._pause = _FIRST_PAUSE
        self._known = {pid: known for pid, known in self._known.items() if pid in stats and known[1] in self}


def _ask(family: list[Stat], told: set[tuple[int, int]]) -> None:
    """SIGTERM to whoever did not get it yet: children born meanwhile are told as well, and nobody twice."""
    for member in family:
        if (member.pid, member.started) not in told:
            told.add((member.pid, member.started))
            procfs.send(member.pid, member.started, signal.SIGTERM)
            procfs.send(member.pid, member.started, signal.SIGCONT)  # one that stands still could not follow


def _kill(family: list[Stat], groups: list[int]) -> None:
    """SIGKILL to all of them and to their process groups, which who forks all the time cannot outrun."""
    for member in family:
        procfs.send(member.pid, member.started, signal.SIGKILL)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _group_lives(group: int, seen: int) -> bool:
    """Has a process group members, zombies included? It had one that started at `seen`."""
    if group <= 1 or group == os.getpgrp():
        return False
    leader = procfs.stat(group)
    if leader is not None and leader.started > seen:  # no group is older than its leader: this one is somebody else's
        return False
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class _Census:
    """Says which run each process belongs to."""

    def __init__(
        self, runs: Mapping[int, Run], stats: Mapping[int, Stat], known: Mapping[int, tuple[int, Run]], me: int
    ) -> None:
        self._stats = stats
        self._known = known
        self._me = me
        self._leaders = {run.pid: run for run in runs.values()}
        self._limits = {run.limit: run for run in runs.values() if run.limit}
        self._marks = {run.mark: run for run in runs.values()}
        self._found: dict[int, Run | None] = {me: None}

    def run_of(self, stat: Stat) -> Run | None:
        """The run of a process, None for one that is none of ours, or was left by a run that is over."""
        line: list[Stat] = []  # of ancestors that nothing is known of
        run: Run | None = None
        at: Stat | None = stat
        while at is not None and len(line) <= len(self._stats):
            if at.pid in self._found:
                run = self._found[at.pid]
                break
            known = self._known.get(at.pid)
            run = known[1] if known and known[0] == at.started else self._of_session(at)
            if run is not None:
                break
            line.append(at)
            parent = self._stats.get(at.parent)
            # Orphans become children of the runner, a subreaper: prctl(2). One whose parent was seen no more may have.
            if at.parent == self._me or (parent is None and at.parent != 0):
                run = self._marked(at)
                break
            at = parent
        for each in line:
            self._found[each.pid] = run
        if at is not None:
            self._found[at.pid] = run
        return run

    def _of_session(self, stat: Stat) -> Run | None:
        run = self._leaders.get(stat.session)
        return run if run is not None and stat.started >= run.pid_started else None

    def _marked(self, stat: Stat) -> Run | None:
        run = self._limits.get(procfs.limit_of(stat.pid)) or self._marks.get(procfs.mark_of(stat.pid))
        return run if run is not None and stat.started >= run.pid_started else None
