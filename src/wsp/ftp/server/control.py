"""The control channel as such: lines in, replies out, in order, without holding up the loop."""

import errno
import logging
import socket
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError, _RetryError
from pyftpdlib.handlers.ftps.control import TLS_FTPHandler

from wsp.addresses import normal_address
from wsp.errors import WspError
from wsp.ftp.permissions import NotAllowed
from wsp.ftp.server.loop import Offload

LINE_BYTES = 8192  # the longest command; PATH_MAX is 4096
SLICE_SECONDS = 0.01  # how long one client's commands run before it is the others' turn
FAREWELL_SECONDS = 5.0  # how long the last replies may take to leave
FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_BUSY = "450 Too much is being worked on at the moment, try again shortly."

logger = logging.getLogger(__name__)


def sentence_of(error: OSError | FilesystemError) -> str:
    """What went wrong, for the client."""
    return str(error.args[1]) if len(error.args) > 1 else str(error)


class ControlChannel(TLS_FTPHandler):
    """Reads commands one by one, and can wait with the next one until a thread has done its work."""

    encoding = "utf-8"
    unicode_errors = "surrogateescape"  # names that are not UTF-8 can be listed, fetched and removed

    # pyftpdlib is untyped: these are its own.
    username: str
    remote_ip: str

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.id = uuid4().hex
        self._raw = conn
        self._lines: list[bytes] = []  # not a deque: an idle one takes 600 bytes
        self._tail = b""
        self._overlong = False
        self._paused = False
        self._in_command = False
        self._lost = False
        super().__init__(conn, server, ioloop)
        if self.connected:
            self.remote_ip = normal_address(self.remote_ip)

    def __repr__(self) -> str:
        return f"<Session of {self.username or 'nobody'} from {self.remote_ip}>"

    __str__ = __repr__

    # Reading commands

    def handle_read(self) -> None:
        if self._paused or self.producer_fifo:
            # Over TLS, pyftpdlib asks for events on its own account.
            self._watch(self.ioloop.WRITE if self.producer_fifo else 0)
            return
        try:
            data = self.recv(self.ac_in_buffer_size)
        except _RetryError:
            return
        if data:
            self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._tail = (self._tail + data).split(b"\r\n")
        if lines and self._overlong:
            self._overlong = False
            lines[0] = b" " * (LINE_BYTES + 1)  # the end of the long line: it is refused in its turn
        if len(self._tail) > LINE_BYTES:
            self._overlong = True
            self._tail = self._tail[-1:]  # it may be the first half of a line end
        self._lines.extend(lines)
        self._run_lines()

    def _run_lines(self) -> None:
        """Execute what has arrived: not all at once, and nothing for a client that does not read the answers."""
        until = time.monotonic() + SLICE_SECONDS
        while self._lines and not (self._paused or self.is_ending or self._quit_pending or self.producer_fifo):
            if not self._may_run():
                return
            if time.monotonic() > until:
                self._pause()
                self.ioloop.call_later(0, self._resume)
                return
            self._in_command = True
            try:
                self._run_line(self._lines.pop(0))
            finally:
                self._in_command = False
            if self._lost:
                self.close()

    def _may_run(self) -> bool:
        """Whether the next command's time has come; when not, somebody resumes when it has."""
        return True

    def handle_write(self) -> None:
        super().handle_write()
        if not self._closed:
            self._run_lines()

    def initiate_send(self) -> None:
        super().initiate_send()
        if self.producer_fifo and not self._closed:
            self._watch(self.ioloop.WRITE)

    @property
    def is_ending(self) -> bool:
        """Whether the session is over, or will be once its last reply is sent."""
        return bool(self._closed or self._closing or self._lost)

    def close(self) -> None:
        # A reply that cannot be sent closes the session. In the middle of a command that would pull away what the
        # rest of the command works with.
        if self._in_command:
            self._lost = True
            return
        super().close()
        if not self._closed:
            self._error = True  # TLS's farewell does not leave at once: the client does not read, and gets none
            super().close()
        self.producer_fifo.clear()  # a listing that was broken off lets go of its folder

    def close_when_done(self) -> None:
        super().close_when_done()
        if not self._closed:
            self.ioloop.call_later(FAREWELL_SECONDS, self.close)

    def _run_line(self, raw: bytes) -> None:
        if self._idler is not None and not self._idler.cancelled:
            self._idler.reset()
        if len(raw) > LINE_BYTES:
            self.respond("500 Command too long.")
            return
        line = raw.decode(self.encoding, self.unicode_errors)
        word, _, argument = line.partition(" ")
        command = word.upper()
        if command != "PASS" and any(byte in raw for byte in b"\0\r\n"):
            self.respond("501 A command cannot hold NUL or line ends.")
            return
        if command in ("LIST", "NLST") and argument.startswith("-"):
            # Options of ls that clients send along; the answer is what they hope for anyway.
            argument = argument.partition(" ")[2]
            line = f"{command} {argument}"
        try:
            self.pre_process_command(line, command, argument)
        except NotAllowed as error:
            self.respond(f"550 {error}.")
        except (OSError, FilesystemError) as error:
            logger.warning("%r failed: %s", command, error)
            self.respond("550 The file system refused that.")
        except Exception:
            logger.exception("the command %r failed", command)
            self.respond("451 The server failed at this command.")

    def _forget_input(self) -> None:
        """Drop what has arrived and was not executed yet."""
        self._lines.clear()
        self._tail = b""

    def peer_is_gone(self) -> bool:
        """Whether the client has closed the control connection, as far as what has arrived tells.

        One that said QUIT has left in good order.
        """
        if self._quit_pending:
            return False
        try:
            return not self._raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # Waiting for a thread

    def _pause(self) -> None:
        """Take no further command until `_resume()`. A connection that breaks is noticed all the same."""
        self._paused = True
        self._watch(0)

    def _resume(self) -> None:
        self._paused = False
        if not self._closed:
            self._watch(self.ioloop.READ | (self.ioloop.WRITE if self.producer_fifo else 0))
            self._run_lines()

    def _work(self, pool: Offload, work: Callable[[], Callable[[], None]]) -> bool:
        """Have a thread do `work`, and take no further command meanwhile. What it returns runs on the loop.

        When the session has ended by then, it does not run. What `work` raises is answered. However long it takes, the
        session is not idle. False: there is too much to do already, and that was answered.
        """
        self._pause()
        if self._idler is not None and not self._idler.cancelled:
            self._idler.cancel()

        def job() -> Callable[[], None]:
            try:
                then = work()
            except Exception as error:
                if self.is_ending:
                    return lambda: None  # it may well be why the work was broken off
                reply = self._reply_to(error)
                return lambda: self._worked(lambda: self.respond(reply))
            return lambda: self._worked(then)

        if pool.submit(job):
            return True
        self._worked(lambda: self.respond(TOO_BUSY))
        return False

    def _worked(self, then: Callable[[], None]) -> None:
        if self.is_ending:
            return
        then()
        if self.data_channel is None and not self.is_ending:
            # A running transfer starts it anew when it ends.
            self._idler = self.ioloop.call_later(self.timeout, self.handle_timeout, _errback=self.handle_error)
        self._resume()

    def _reply_to(self, error: Exception) -> str:
        if isinstance(error, WspError):
            return f"550 {error.sentence}."
        if isinstance(error, (OSError, FilesystemError)):
            logger.info("what %r asked for failed: %s", self, error)
            code = 552 if isinstance(error, OSError) and error.errno in FULL else 550
            return f"{code} {sentence_of(error)}."
        logger.error("what %r asked for failed", self, exc_info=error)
        return "451 The server failed at this command."

    def _watch(self, events: int) -> None:
        self.ioloop.modify(self._fileno, events)
        self._wanted_io_events = self._current_io_events = events

    # Replies, and what pyftpdlib would say to its own log

    def _hang_up(self, reply: str) -> None:
        self.respond(reply)
        self.close_when_done()

    def handle_error(self) -> None:
        if not isinstance(sys.exc_info()[1], SSL.Error):
            logger.exception("a session failed: %r", self)
        self._error = True
        self.close()

    def push(self, data: str) -> None:
        self.push_bytes(data.encode(self.encoding, self.unicode_errors))

    def send(self, data: bytes) -> int:
        try:
            sent: int = super().send(data)
        except SSL.Error:  # the connection broke, in one of the ways that pyftpdlib does not expect
            self._error = True
            self.close()
            return 0
        return sent

    def push_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.producer_fifo.append(data)
        self.initiate_send()

    def respond(self, resp: str, logfun: Any = None) -> None:
        self._last_response = resp
        self.push(f"{resp}\r\n")

    def respond_w_warning(self, resp: str) -> None:
        logger.warning("%s: %s", self.remote_ip, resp)
        self.respond(resp)

    def log(self, msg: str, logfun: Any = None) -> None:
        """pyftpdlib's own lines are not wanted: they may hold what a client typed."""

    logline = logerror = log

    def log_cmd(self, cmd: str, arg: str, respcode: int, respstr: str) -> None:
        """The same."""

    def log_exception(self, instance: Any) -> None:
        logger.exception("unhandled exception in %r", instance)
