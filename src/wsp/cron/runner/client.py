"""A scheduler's end of the line to a runner."""

import asyncio
import binascii
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from wsp.cron.runner import protocol
from wsp.cron.runner.orders import Ended, Order, Output, Started

HELLO_SECONDS = 20.0  # for a runner that was started; a busy machine takes its time
ADOPT_SECONDS = 5.0  # for one that is there
PREPARED_SECONDS = 2.0  # what was not started so long after it was prepared is not going to be

_LOG_BYTES = 4000  # shown of what a runner that died had to say

logger = logging.getLogger(__name__)

_DEFAULTS = {each.name: each.default for each in fields(Order)}


@dataclass(frozen=True)
class _Listeners:
    on_started: Callable[[Sequence[Started]], None]
    on_ended: Callable[[Sequence[Ended]], None]
    on_gone: Callable[["Runner"], None]


class Runner:
    """A process that runs commands. Lives on one event loop; calls back on it.

    What is started here goes on when this process dies; another one may `adopt` the runner then.
    """

    id: str
    """Part of the mark of its commands, and of their rows (`runner_id`); the same for every scheduler it has."""

    pid: int
    """Its process."""

    @classmethod
    async def launch(
        cls,
        folder: Path,
        *,
        on_started: Callable[[Sequence[Started]], None],
        on_ended: Callable[[Sequence[Ended]], None],
        on_gone: Callable[["Runner"], None],
    ) -> "Runner":
        """Start a runner that keeps its socket in `folder`/runner and its outputs in `folder`/output. Raises OSError.

        `on_gone`: it died, or the line to it broke; nothing more will be heard of its commands.
        """
        runner_id = uuid.uuid4().hex[:16]
        line, theirs = socket.socketpair()
        with theirs:
            try:
                pid = _spawn(folder, runner_id, theirs)
            except OSError:
                line.close()
                raise
        exited = _watch(pid)
        try:
            runner = await cls._greeted(folder, line, _Listeners(on_started, on_ended, on_gone), HELLO_SECONDS)
        except OSError as error:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await exited.wait()
            said = _last_words(folder, runner_id)
            raise OSError(f"the process that runs commands cannot be started: {said or error}") from error
        except asyncio.CancelledError:  # it would wait for another scheduler
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise
        asyncio.get_running_loop().call_soon(runner._line.go_on)
        return runner

    @classmethod
    async def adopt(
        cls,
        folder: Path,
        *,
        on_started: Callable[[Sequence[Started]], None],
        on_ended: Callable[[Sequence[Ended]], None],
        on_gone: Callable[["Runner"], None],
    ) -> "list[Runner]":
        """Take over every runner in `folder` that no scheduler speaks to. What they had to say comes as usual.

        They say nothing before this has returned to who awaits it. What dead ones left there is removed.
        """
        listeners = _Listeners(on_started, on_ended, on_gone)
        found = []
        for path in sorted((folder / protocol.RUNNERS).glob(f"*{protocol.SOCKET_SUFFIX}")):
            try:
                found.append(await cls._greeted(folder, _connect(path), listeners, ADOPT_SECONDS))
            except (ConnectionRefusedError, FileNotFoundError):
                said = _last_words(folder, path.stem)
                logger.warning("the runner %s has died%s", path.stem, f": {said}" if said else "")
                path.unlink(missing_ok=True)
            except _Busy:
                logger.debug("the runner %s has another scheduler", path.stem)
            except OSError as error:
                logger.warning("the runner %s cannot be taken over: %s", path.stem, error)
        for runner in found:
            asyncio.get_running_loop().call_soon(runner._line.go_on)
        return found

    @classmethod
    async def _greeted(cls, folder: Path, line: socket.socket, listeners: _Listeners, patience: float) -> "Runner":
        loop = asyncio.get_running_loop()
        runner = cls(folder, listeners)
        line.setblocking(False)
        await loop.create_unix_connection(lambda: runner._line, sock=line)
        try:
            await asyncio.wait_for(asyncio.shield(runner._line.hello), patience)
        except TimeoutError as error:
            runner._line.abort()
            raise OSError("it does not answer") from error
        return runner

    def __init__(self, folder: Path, listeners: _Listeners) -> None:
        """Not for others: `launch` one, or `adopt` them."""
        self.id = ""
        self.pid = 0
        self._folder = folder
        self._listeners = listeners
        self._runs: set[int] = set()
        self._prepared: dict[int, Order] = {}
        self._line = _Line(self)
        self._closing = False

    @property
    def runs(self) -> Collection[int]:
        """The runs that it has: started or about to be, or ended and not acknowledged yet."""
        return self._runs

    def prepare(self, orders: Sequence[Order]) -> None:
        """Have everything done that can be done for orders that are about to be started. Nothing comes of it alone."""
        self._prepared.update((order.run_id, order) for order in orders)
        self._line.send({"prepare": [_order(order) for order in orders]})
        forget = partial(self._forget_prepared, orders)
        asyncio.get_running_loop().call_later(PREPARED_SECONDS, forget)

    def _forget_prepared(self, orders: Sequence[Order]) -> None:
        self.drop([order.run_id for order in orders if self._prepared.get(order.run_id) is order])

    def drop(self, run_ids: Sequence[int]) -> None:
        """Undo what was prepared for orders that are not going to be started."""
        prepared = [run_id for run_id in run_ids if self._prepared.pop(run_id, None) is not None]
        if prepared:
            self._line.send({"drop": prepared})

    def start(self, orders: Sequence[Order]) -> None:
        """Have commands started, in this order, at once."""
        self._runs.update(order.run_id for order in orders)
        known = [self._prepared.pop(order.run_id, None) is order for order in orders]
        self._line.send({"start": [o.run_id if k else _order(o) for o, k in zip(orders, known, strict=True)]})

    def kill(self, run_id: int, *, reason: str, grace: float | None = None) -> None:
        """Have the whole tree of a command ended: SIGTERM, SIGKILL after its grace. `Ended` comes as usual.

        One that has ended is left alone, with what goes on of it.
        """
        self._line.send({"kill": [run_id, reason, grace]})

    def acknowledge(self, run_ids: Sequence[int]) -> None:
        """Their ends are written down: forget them, and what was kept of their outputs and is not `in_file`."""
        self._runs.difference_update(run_ids)
        self._line.send({"acknowledge": list(run_ids)})

    async def close(self) -> None:
        """Let the runner end as soon as it has no commands and nothing unacknowledged; hang up."""
        self._closing = True
        self._line.send({"dismiss": True})
        self._line.close()
        await self._line.closed.wait()

    # --- what the line says ---------------------------------------------------------------------------------------

    def _greet(self, message: dict[str, Any]) -> None:
        """Take its first message. Raises OSError for what is none that is understood."""
        if "busy" in message:
            raise _Busy("it has another scheduler")
        if message.get("protocol") != protocol.PROTOCOL:
            raise OSError("it is of another version")
        self.id, self.pid = str(message["hello"]), int(message["pid"])
        self._runs.update(message["runs"])

    def _hear(self, message: dict[str, Any]) -> None:
        if started := message.get("started"):
            self._listeners.on_started([Started(*values) for values in started])
        if ended := message.get("ended"):
            self._listeners.on_ended([_ended(values) for values in ended])

    def _lost(self) -> None:
        if not self._closing:
            said = _last_words(self._folder, self.id)
            logger.error("the runner %s is gone%s", self.id, f": {said}" if said else "")
            self._listeners.on_gone(self)


class _Busy(OSError):
    """It speaks to another scheduler."""


class _Line(asyncio.Protocol):
    """Splits what comes into messages. What follows the first one waits until its runner is known to the caller."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[None] = self._loop.create_future()
        self.closed = asyncio.Event()
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.hello.done():
            line, end, rest = self._received.partition(b"\n")
            if not end:
                return
            self._received = rest
            try:
                self._runner._greet(protocol.decode(bytes(line)))
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.hello.set_exception(error if isinstance(error, OSError) else OSError(f"nonsense: {error}"))
                self.abort()
                return
            self._greeted = True
            self.hello.set_result(None)
            assert self._transport is not None  # noqa: S101 - for the type checker
            self._transport.pause_reading()
        else:
            self._hear()

    def go_on(self) -> None:
        """Whoever waited for the hello knows the runner: it may speak."""
        if self._transport is not None and not self._transport.is_closing():
            self._hear()
            self._transport.resume_reading()

    def _hear(self) -> None:
        end = self._received.rfind(b"\n")
        if end < 0:
            return
        lines = bytes(self._received[:end]).split(b"\n")
        del self._received[: end + 1]
        for line in lines:
            try:
                self._runner._hear(protocol.decode(line))
            except Exception:  # what cannot be understood, or not be dealt with, must not end the line
                logger.exception("a message of the runner %s", self._runner.id)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        if not self.hello.done():
            self.hello.set_exception(error if isinstance(error, OSError) else OSError("it hung up"))
        elif self._greeted:
            self._runner._lost()

    def send(self, message: dict[str, object]) -> None:
        if self._transport is not None:
            self._transport.write(protocol.encode(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _order(order: Order) -> dict[str, object]:
    values = {name: value for name, value in vars(order).items() if value != _DEFAULTS[name]}
    if order.stdin:
        values["stdin"] = binascii.b2a_base64(order.stdin, newline=False).decode()
    values["environment"] = dict(order.environment)
    return values


def _ended(values: dict[str, Any]) -> Ended:
    output = Output(
        frames=binascii.a2b_base64(values.pop("frames", "")),
        total_bytes=values.pop("total_bytes", 0),
        in_file=values.pop("in_file", False),
        trouble=values.pop("output_trouble", ""),
    )
    values.pop("files", None)
    return Ended(output=output, **values)


def _spawn(folder: Path, runner_id: str, line: socket.socket) -> int:
    """Start the process, which is nobody's child for long: it has a session of its own, and inherits nothing."""
    runners = folder / protocol.RUNNERS
    runners.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = [sys.executable, "-X", "utf8", "-P", "-m", "wsp.cron.runner"]
    # The settings, and with them passwords, are none of its business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
    log = runners / protocol.log_name(runner_id)
    return os.posix_spawn(
        sys.executable,
        [*program, "--folder", str(folder.absolute()), "--id", runner_id],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, line.fileno(), 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ],
        setsid=True,
        setsigmask=(),
    )


def _watch(pid: int) -> asyncio.Event:
    """Have the process reaped when it ends, should that be in this one's lifetime."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    exited = asyncio.Event()

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        exited.set()

    loop.add_reader(descriptor, reap)
    return exited


def _connect(path: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.setblocking(False)
        with _short(path) as address:
            line.connect(address)
    except BaseException:
        line.close()
        raise
    return line


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The address of a socket, which has room for 107 bytes, whatever its path."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _last_words(folder: Path, runner_id: str) -> str:
    """The end of what a runner that is gone wrote to its log, which is removed."""
    log = folder / protocol.RUNNERS / protocol.log_name(runner_id)
    try:
        words = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
        log.unlink()
    except OSError:
        return ""
    return words
