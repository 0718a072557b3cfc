"""The loop of a runner: starts commands, reads what they write, sees them end, and tells the scheduler."""

import binascii
import os
import select
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from wsp.cron.runner import procfs, protocol, spool
from wsp.cron.runner.command import Command, run_id
from wsp.cron.runner.ending import Endings
from wsp.cron.runner.frames import STDERR, STDOUT
from wsp.cron.runner.gates import Gates
from wsp.cron.runner.keeping import FLUSH_SECONDS, Kept
from wsp.cron.runner.line import Line
from wsp.cron.runner.run import Run
from wsp.cron.runner.spawn import CannotStart, Spawner
from wsp.cron.runner.timers import Timers

DRAIN_SECONDS = 1.0  # how long a grandchild may hold the output open after the command itself has ended
FIRST_SECONDS = 30.0  # for the first scheduler to come
NEXT_SECONDS = 60.0  # for the next one, after one that died: who claimed runs and did not hand them over is to be told
KEEP_SECONDS = 3600.0  # how long ends wait for a scheduler to come and take them
FIND_SECONDS = 10.0  # between two looks whether a scheduler could come at all
LEAVE_SECONDS = 5.0  # how long they do after SIGTERM

STOPPED = "The runner was told to end"
NOT_PREPARED = "The command could not be started: what it is was forgotten"
NOT_STARTED = "The command could not be started: the runner was told to end"

_CHUNK_BYTES = 65536  # the size of a pipe
_TROUBLE_SECONDS = 0.05
_STARTS_A_TURN = 8  # then output is read: a start takes long enough to fill a pipe

Message = dict[str, object]


class Server:
    """A runner. Belongs to the main thread of a process of its own."""

    def __init__(self, folder: str, outputs: str, runner_id: str, first: socket.socket | None) -> None:
        """`folder` is for its socket, `first` a scheduler that is there already. Raises OSError."""
        self._id = runner_id
        self._outputs = outputs
        self._epoll = select.epoll()
        self._timers = Timers()
        self._spawner = Spawner(runner_id)
        self._gates = Gates(self._spawner)
        self._orders: OrderedDict[int, Command] = OrderedDict()  # to be started
        self._runs: dict[int, Run] = {}  # started, not ended
        self._ended: dict[int, Message] = {}  # not acknowledged
        self._leaders: dict[int, Run] = {}  # by pid
        self._pipes: dict[int, tuple[Run, int]] = {}  # with the number of the stream
        self._endings = Endings(self._runs, self._timers, self._tree_is_gone)
        self._own_memory = 0  # kB
        self._new_starts: list[tuple[int, int, int, float]] = []
        self._new_ends: list[Message] = []
        self._alone_since: float | None = time.monotonic()
        self._last_end = 0.0
        self._can_be_found = True
        self._find_at = 0.0
        self._had_scheduler = False
        self._dismissed = False
        self._told_to_stop = False
        self._stopping_since: float | None = None
        self._listen_to_signals()
        self._epoll.register(self._wake_r, select.EPOLLIN)
        self._line = Line(self._epoll, folder, runner_id, first)
        os.chdir("/")
        if first is not None:
            self._greet()

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until there is nothing more to do for anybody."""
        while not self._is_over():
            try:
                self._turn()
            except Exception:  # whatever is wrong with one run, the others must not be lost with it
                sys.excepthook(*sys.exc_info())
                time.sleep(_TROUBLE_SECONDS)
        self._line.close()

    def _turn(self) -> None:
        special = []
        for descriptor, events in self._epoll.poll(self._patience()):
            pipe = self._pipes.get(descriptor)
            if pipe is None:
                special.append(descriptor)
            else:
                self._read(descriptor, *pipe, events)
        if special:
            self._serve(special)
        if self._told_to_stop and self._stopping_since is None:
            self._stop()
        self._timers.run_due()
        self._endings.step()
        self._start_some()
        self._tell()
        if not self._line.connected and self._alone_since is None:
            self._alone_since = time.monotonic()
            self._gates.close()  # who prepared it would have had to start it

    def _patience(self) -> float | None:
        if self._orders or self._gates.busy or self._endings.busy:
            return 0.0
        wait = self._timers.wait()
        if self._runs or (self._line.connected and self._stopping_since is None):
            return wait
        # Nobody is there, or nothing is to come: see now and then whether it is over.
        return 1.0 if wait is None else min(wait, 1.0)

    def _is_over(self) -> bool:
        if self._runs or self._orders:
            return False
        now = time.monotonic()
        if self._stopping_since is not None:
            return not self._ended or not self._line.connected or now > self._stopping_since + LEAVE_SECONDS
        if self._line.connected or self._alone_since is None:
            return False
        if not self._is_findable(now):
            patience = 0.0
        elif self._ended:
            patience = KEEP_SECONDS
        elif self._dismissed:
            patience = 0.0
        else:
            patience = NEXT_SECONDS if self._had_scheduler else FIRST_SECONDS
        return now >= max(self._alone_since, self._last_end) + patience

    def _is_findable(self, now: float) -> bool:
        if now >= self._find_at:
            self._find_at = now + FIND_SECONDS
            self._can_be_found = self._line.can_be_found()
        return self._can_be_found

    def _serve(self, descriptors: list[int]) -> None:
        scheduler, listener = self._line.descriptors()
        if self._wake_r in descriptors:
            _empty(self._wake_r)
            self._reap()
        # The scheduler before others: that it hung up is known before the next one is told that it is there.
        if scheduler in descriptors:
            self._line.send_more()
            for message in self._line.receive():
                self._obey(message)
        if listener in descriptors and self._line.accept():
            self._greet()

    def _listen_to_signals(self) -> None:
        self._wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGHUP):  # what a terminal says to its programs is not for this one
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, self._on_stop)

    # --- what the scheduler says ----------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Tell a scheduler that has come everything that it may not know."""
        self._alone_since = None
        self._had_scheduler = True
        self._dismissed = False
        self._gates.close()  # what another one has prepared, who has only just gone
        self._new_starts = [(run.command.run_id, run.pid, run.pid_started, run.at) for run in self._runs.values()]
        self._new_ends = list(self._ended.values())
        runs = [*self._orders, *self._runs, *self._ended]
        self._line.send({"hello": self._id, "protocol": protocol.PROTOCOL, "pid": os.getpid(), "runs": runs})

    def _obey(self, message: Message) -> None:
        if message.get("dismiss"):
            self._dismissed = True
        orders = _list(message, "start")
        self._let_go([order for order in orders if isinstance(order, int)])
        for order in orders:
            if not isinstance(order, int):
                self._accept(order)
        for order in _list(message, "prepare"):
            self._prepare(order)
        for each in _list(message, "drop"):
            if isinstance(each, int):
                self._gates.drop(each)
        kill = message.get("kill")
        if isinstance(kill, list) and len(kill) == 3:
            wanted, reason, grace = kill
            if isinstance(grace, int | float | None):
                self._kill(wanted, str(reason), grace)
        for each in _list(message, "acknowledge"):
            self._forget(each)

    def _accept(self, fields: object) -> None:
        """Queue an order. One that makes no sense has ended, if it can be said which one."""
        if not isinstance(fields, dict):
            return
        try:
            wanted = run_id(fields)
        except ValueError as error:
            print(f"an order that is none: {error}", file=sys.stderr)  # noqa: T201 - its log is a file
            return
        if self._has(wanted):
            return  # nothing is started twice
        self._gates.drop(wanted)  # of another wording
        try:
            self._orders[wanted] = Command(fields)
        except ValueError as error:
            self._end_unstarted(wanted, trouble=f"The command could not be started: {error}")

    def _has(self, wanted: int) -> bool:
        return wanted in self._runs or wanted in self._ended or wanted in self._orders

    def _prepare(self, fields: object) -> None:
        """Make ready for an order. One that makes no sense is none: its start would have to say it all."""
        try:
            command = Command(fields if isinstance(fields, dict) else {})
        except ValueError as error:
            print(f"an order that is none: {error}", file=sys.stderr)  # noqa: T201 - its log is a file
            return
        if not self._has(command.run_id) and self._stopping_since is None:
            self._gates.prepare(command)

    def _kill(self, wanted: object, reason: str, grace: float | None) -> None:
        if not isinstance(wanted, int):
            return
        if self._orders.pop(wanted, None) is not None:
            self._end_unstarted(wanted, cause="kill", reason=reason)
            return
        run = self._runs.get(wanted)
        if run is not None:
            self._end(run, "kill", reason, grace)

    def _forget(self, wanted: object) -> None:
        message = self._ended.pop(wanted, None) if isinstance(wanted, int) else None
        if message is not None and message.pop("files", False):
            try:
                spool.remove(self._outputs, int(str(wanted)))
            except OSError as error:
                print(f"the output of run {wanted} stays: {error}", file=sys.stderr)  # noqa: T201 - its log is a file

    # --- starts ---------------------------------------------------------------------------------------------------

    def _start_some(self) -> None:
        if not self._orders and not self._gates.busy:
            return
        for _ in range(_STARTS_A_TURN):
            if self._orders:
                self._start(self._orders.popitem(last=False)[1])
            else:
                self._gates.step()
        os.chdir("/")  # no command's folder is kept from being unmounted

    def _let_go(self, prepared: list[int]) -> None:
        """Start what was prepared. The commands first, the books afterwards."""
        gone = []
        for wanted in prepared:
            if self._has(wanted):
                continue
            command, ready = self._gates.take(wanted) or (None, None)
            if command is None:
                self._end_unstarted(wanted, trouble=NOT_PREPARED if self._stopping_since is None else NOT_STARTED)
                continue
            run = self._run_of(command)
            if ready is not None and ready.open():
                gone.append((run, ready.process))
            else:
                self._orders[wanted] = command
        for run, process in gone:
            try:
                self._keep(run, process)
            except OSError:  # the others go on as well, and are to be read
                sys.excepthook(*sys.exc_info())

    def _start(self, command: Command) -> None:
        if self._stopping_since is not None:
            self._end_unstarted(command.run_id, trouble=NOT_STARTED)
            return
        run = self._run_of(command)
        try:
            process = self._spawn(command)
        except CannotStart as error:
            self._end_unstarted(command.run_id, trouble=str(error), at=run.at)
            return
        self._keep(run, process)

    def _spawn(self, command: Command) -> tuple[int, int, int]:
        """Start it, also with the descriptors of those that stand ready: what is due goes first. Raises CannotStart."""
        while True:
            try:
                return self._spawner.spawn(command)
            except CannotStart as error:
                if not error.for_want_of_descriptors or not self._gates.give_way():
                    raise

    def _run_of(self, command: Command) -> Run:
        kept = Kept(self._outputs, command.run_id, command.max_output_bytes)
        return Run(command, kept, self._spawner.mark(command.run_id))

    def _keep(self, run: Run, process: tuple[int, int, int]) -> None:
        """Look after the command that goes on in this process."""
        command = run.command
        pid, out, err = process
        run.pid = pid
        run.pid_started = procfs.start_time(pid) or 0  # until it is reaped, even one that has ended has one
        run.limit = procfs.run_limit(run.mark)
        self._runs[command.run_id] = self._leaders[pid] = run
        if command.timeout_seconds > 0:
            run.timeout_timer = self._timers.after(command.timeout_seconds, partial(self._end, run, "timeout", ""))
        self._new_starts.append((command.run_id, pid, run.pid_started, run.at))
        for descriptor, stream in ((out, STDOUT), (err, STDERR)):
            run.pipes.add(descriptor)
            self._pipes[descriptor] = (run, stream)
            self._epoll.register(descriptor, select.EPOLLIN)

    # --- output ---------------------------------------------------------------------------------------------------

    def _read(self, descriptor: int, run: Run, stream: int, events: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK_BYTES) if events & select.EPOLLIN else b""
        except BlockingIOError:  # somebody has read it before: the command itself, that can open its /dev/stdout
            return
        if not data:
            self._close(descriptor, run)
            if run.ended and not run.pipes and run not in self._endings:
                self._finish(run)
        elif run.add(stream, data) and run.flush_timer is None:
            run.flush_timer = self._timers.after(FLUSH_SECONDS, partial(_flush, run))

    def _close(self, descriptor: int, run: Run) -> None:
        del self._pipes[descriptor]
        run.pipes.discard(descriptor)
        os.close(descriptor)  # epoll forgets it with that

    # --- ends -----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Take the exit codes of all that have ended: commands, and orphans that they left."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            self._endings.ended(ended.si_pid)
            pid, status, usage = os.wait4(ended.si_pid, 0)
            run = self._leaders.pop(pid, None)
            if run is not None:
                code = os.waitstatus_to_exitcode(status)
                cpu_ms = round((usage.ru_utime + usage.ru_stime) * 1000)
                memory_kb = self._memory_of_its_own(usage.ru_maxrss)
                self._command_ended(run, code if code >= 0 else 128 - code, (cpu_ms, memory_kb))

    def _memory_of_its_own(self, largest: int) -> int | None:
        """The largest size of a command, in kB. None when it is not known: its memory is the runner's own until it
        becomes a program, and the kernel counts that as well."""
        if largest > self._own_memory:
            self._own_memory = procfs.peak_memory()
        return largest if largest > self._own_memory else None

    def _command_ended(self, run: Run, exit_code: int | None, usage: tuple[int, int | None] | None) -> None:
        run.end(exit_code, usage)
        self._timers.cancel(run.timeout_timer)
        if run in self._endings:
            return
        if run.pipes:
            run.drain_timer = self._timers.after(DRAIN_SECONDS, partial(self._finish, run))
        else:
            self._finish(run)

    def _end(self, run: Run, cause: str, reason: str, grace: float | None = None) -> None:
        """Have its tree ended, unless the command has ended already. Who asks first is the cause."""
        if run.ended and run not in self._endings:
            return
        if not run.cause:
            run.cause, run.reason = cause, reason
        self._endings.begin(run, run.command.kill_grace_seconds if grace is None else grace)

    def _tree_is_gone(self, run: Run) -> None:
        if not run.ended:  # it cannot be ended
            self._leaders.pop(run.pid, None)
            run.end(None, None)
        if run.pipes:
            run.drain_timer = self._timers.after(DRAIN_SECONDS, partial(self._finish, run))
        else:
            self._finish(run)

    def _finish(self, run: Run) -> None:
        """Everything of it is known: tell it."""
        for timer in (run.flush_timer, run.drain_timer, run.timeout_timer):
            self._timers.cancel(timer)
        for descriptor in list(run.pipes):
            self._close(descriptor, run)
        for stream, mask in run.masks.items():
            run.kept.add(stream, mask.end())
        frames, in_file = run.kept.finish()
        wanted = run.command.run_id
        del self._runs[wanted]
        message: Message = {
            "run_id": wanted,
            "started_at": run.at,
            "ended_at": run.ended_at,
            "duration_ms": round((run.ended_clock - run.clock) * 1000),
            "exit_code": run.exit_code,
        }
        if run.usage:
            message["cpu_ms"], message["memory_kb"] = run.usage
        if run.cause:
            message["cause"], message["reason"] = run.cause, run.reason
        if run.kept.total:
            message["frames"] = binascii.b2a_base64(frames, newline=False).decode()
            message["total_bytes"] = run.kept.total
        if in_file:
            message["in_file"] = True
        elif run.kept.in_files:
            message["files"] = True
        if run.kept.trouble:
            message["output_trouble"] = run.kept.trouble
        self._told_later(wanted, message)

    def _end_unstarted(
        self, wanted: int, *, trouble: str = "", cause: str = "", reason: str = "", at: float | None = None
    ) -> None:
        fields: Mapping[str, object] = {"trouble": trouble, "cause": cause, "reason": reason}
        known = {name: value for name, value in fields.items() if value}
        self._told_later(
            wanted, {"run_id": wanted, "started_at": at, "ended_at": time.time(), "duration_ms": 0, **known}
        )

    def _told_later(self, wanted: int, message: Message) -> None:
        self._ended[wanted] = message
        self._last_end = time.monotonic()
        self._new_ends.append(message)

    def _tell(self) -> None:
        """Tell what has come about in this turn. Without a scheduler, the next one is told everything."""
        if self._new_starts:
            self._line.send({"started": self._new_starts})
            self._new_starts = []
        if self._new_ends:
            self._line.send({"ended": self._new_ends})
            self._new_ends = []

    # --- the end of it all ----------------------------------------------------------------------------------------

    def _on_stop(self, number: int, frame: object) -> None:
        self._told_to_stop = True

    def _stop(self) -> None:
        self._stopping_since = time.monotonic()
        self._gates.close()
        for run in list(self._runs.values()):
            self._end(run, "kill", STOPPED)


def _flush(run: Run) -> None:
    run.flush_timer = None
    run.kept.flush()


def _list(message: Message, name: str) -> list[object]:
    found = message.get(name)
    return found if isinstance(found, list) else []


def _nothing(number: int, frame: object) -> None:
    """Lets a signal wake the loop up."""


def _empty(descriptor: int) -> None:
    try:
        while len(os.read(descriptor, 4096)) == 4096:
            pass
    except BlockingIOError:
        pass
