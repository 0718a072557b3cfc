"""The control channel: one client's session.

Commands are read line by line and answered in order; while a login is being checked, or an old file copied, the
session waits without holding up the loop.
"""

import logging
import re
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError, _RetryError
from pyftpdlib.handlers.ftps.control import TLS_FTPHandler

from wsp.ftp.logins import Login
from wsp.ftp.server.authenticator import Granted, Permissions, Refused, normal_address
from wsp.ftp.server.data import TlsDataChannel
from wsp.ftp.server.filesystem import JailedFilesystem
from wsp.ftp.server.passive import PassiveListener, same_address
from wsp.ftp.server.upload import Upload, UploadRefused, failure_reply

LINE_BYTES = 8192  # the longest command; PATH_MAX is 4096
UNREAD_REPLIES = 1000  # a client that sends on without reading is cut off
FAILED_LOGIN_SECONDS = 1.0  # what a wrong password costs the client
INLINE_COPY_BYTES = 2**20  # what is copied on the loop; more goes to a thread

_MFMT_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)
TRANSFERS = ("APPE", "LIST", "MLSD", "NLST", "RETR", "STOR", "STOU")
BUSY = "421 Too many logins are waiting to be checked, try again shortly."
GOING_DOWN = "421 The server is shutting down."
NO_DATA_CONNECTION = "425 Open a data connection first, with PASV, EPSV, PORT or EPRT."
ONE_TRANSFER = "503 A transfer is going on already."

logger = logging.getLogger(__name__)


class Session(TLS_FTPHandler):
    """What a client talks to. Its settings are class attributes: the listener makes a subclass with its own."""

    dtp_handler = TlsDataChannel
    passive_dtp = PassiveListener
    banner = "wsp FTP ready."
    encoding = "utf-8"
    unicode_errors = "surrogateescape"  # names that are not UTF-8 can be listed, fetched and removed

    # pyftpdlib is untyped: these are its own.
    username: str
    remote_ip: str
    authenticated: bool
    authorizer: Permissions
    fs: JailedFilesystem | None
    data_channel: TlsDataChannel | None
    _dtp_acceptor: PassiveListener | None
    _dtp_connector: Any
    _restart_position: int
    _out_dtp_queue: tuple[Any, bool, Any, str] | None
    _in_dtp_queue: tuple[Upload, str] | None

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.login: Login | None = None
        self._raw = conn
        self._lines: deque[bytes] = deque()
        self._tail = b""
        self._overlong = False
        self._paused = False
        self._leaving = False
        self._pbsz = self._prot = False
        super().__init__(conn, server, ioloop)
        if self.connected:
            self.remote_ip = normal_address(self.remote_ip)

    def __repr__(self) -> str:
        return f"<Session of {self.username or 'nobody'} from {self.remote_ip}>"

    __str__ = __repr__

    # Reading commands

    def handle_read(self) -> None:
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
        while self._lines and not (self._paused or self._closed or self._closing or self._quit_pending):
            self._run_line(self._lines.popleft())

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
        except (OSError, FilesystemError) as error:
            logger.warning("%r failed: %s", command, error)
            self.respond("550 The file system refused that.")
        except Exception:
            logger.exception("the command %r failed", command)
            self.respond("451 The server failed at this command.")

    def process_command(self, cmd: str, *args: Any, **kwargs: Any) -> None:
        if cmd in TRANSFERS:
            if self._in_dtp_queue is not None or self._out_dtp_queue is not None or self.is_transferring:
                self.respond(ONE_TRANSFER)
                return
            if self.data_channel is None and self._dtp_acceptor is None and self._dtp_connector is None:
                self.respond(NO_DATA_CONNECTION)
                return
        super().process_command(cmd, *args, **kwargs)

    @property
    def _files(self) -> JailedFilesystem:
        if self.fs is None:
            raise FilesystemError("Not logged in")
        return self.fs

    @property
    def is_transferring(self) -> bool:
        """Whether a transfer is going on over the data channel."""
        channel = getattr(self, "data_channel", None)
        return channel is not None and channel.is_transferring

    def peer_is_gone(self) -> bool:
        """Whether the client has closed the control connection, as far as what has arrived tells."""
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

    def _watch(self, events: int) -> None:
        self.ioloop.modify(self._fileno, events)
        self._wanted_io_events = self._current_io_events = events

    # Logging in

    def ftp_PASS(self, line: str) -> None:
        if self.authenticated:
            self.respond("503 You are logged in already.")
            return
        if not self.username:
            self.respond("503 Send USER first.")
            return
        authenticator, username, address = self.server.authenticator, self.username, self.remote_ip
        self._pause()

        def check() -> Callable[[], None]:
            verdict = authenticator.check(username, line, address)
            return lambda: self._on_verdict(username, verdict)

        if not self.server.logins.submit(check):
            self._hang_up(BUSY)

    def _on_verdict(self, username: str, verdict: Granted | Refused) -> None:
        if self._closed or self._closing or username != self.username or self.authenticated:
            if isinstance(verdict, Granted):
                verdict.jail.close()  # nobody is there any more to let in
            return
        if isinstance(verdict, Refused):
            logger.info("login failed: user %r from %s: %s", username, self.remote_ip, verdict.reason)
            self.username = ""
            if verdict.reply.startswith("421"):
                self._hang_up(verdict.reply)
            else:
                self.call_later(FAILED_LOGIN_SECONDS, self._refuse, verdict.reply)
            return
        self.login = verdict.login
        self.authorizer = Permissions(verdict.login)
        self.fs = JailedFilesystem(verdict.jail, verdict.login.username, self)
        self.authenticated = True
        self.attempted_logins = 0
        logger.info("login: user %s from %s, TLS %s", verdict.login.username, self.remote_ip, self._ssl_established)
        self.respond("230 Logged in.")
        self._resume()

    def _refuse(self, reply: str) -> None:
        self.attempted_logins += 1
        if self.attempted_logins >= self.max_login_attempts:
            self._hang_up(reply)
            return
        self.respond(reply)
        self._resume()

    def _hang_up(self, reply: str) -> None:
        self.respond(reply)
        self.close_when_done()

    def flush_account(self) -> None:
        """End the login. A transfer goes on to its end (RFC 959), as the account that began it."""
        pbsz, prot = self._pbsz, self._prot
        super().flush_account()
        self._pbsz, self._prot = pbsz, prot
        self.login = None
        if self.fs is not None:
            self.fs.close()
            self.fs = None

    def ftp_REIN(self, line: str) -> None:
        super().ftp_REIN(line)
        self._pbsz = self._prot = False

    # TLS

    def ftp_AUTH(self, line: str) -> None:
        # What came behind AUTH in clear text may be somebody else's: it must not run inside TLS (CVE-2011-1575).
        self._lines.clear()
        self._tail = b""
        if self.authenticated and not isinstance(self.socket, SSL.Connection):
            self.flush_account()
        super().ftp_AUTH(line)

    def handle_failed_ssl_handshake(self) -> None:
        logger.info("TLS handshake failed: %s", self.remote_ip)
        self.close()

    # Data connections

    def _make_eport(self, ip: str, port: int) -> None:
        super()._make_eport(self.remote_ip if same_address(ip, self.remote_ip) else ip, port)

    def _make_epasv(self, extmode: bool = False) -> None:
        super()._make_epasv(extmode)
        if self._dtp_acceptor is not None and not self._dtp_acceptor.is_listening:
            self._dtp_acceptor = None

    def _shutdown_connecting_dtp(self) -> None:
        super()._shutdown_connecting_dtp()
        # A command that was waiting for the connection waits no longer.
        if self._out_dtp_queue is not None:
            if self._out_dtp_queue[2] is not None:
                self._out_dtp_queue[2].close()
            self._out_dtp_queue = None
        if self._in_dtp_queue is not None:
            self._in_dtp_queue[0].close()
            self._in_dtp_queue = None

    def _on_dtp_close(self) -> None:
        super()._on_dtp_close()
        if self._leaving and not self._closed:
            self.leave()

    # Uploads

    def ftp_STOR(self, file: str, mode: str = "w") -> None:
        offset, self._restart_position = self._restart_position, 0
        if mode == "a":
            self._receive("APPE", lambda: self._files.resume_upload(file, None))
        elif offset:
            self._receive("STOR", lambda: self._files.resume_upload(file, offset))
        else:
            self._receive("STOR", lambda: self._files.begin_upload(file))

    def ftp_STOU(self, line: str) -> None:
        if self._restart_position:
            self.respond("450 Can't STOU while REST request is pending.")
            return
        if not self.authorizer.has_perm(self.username, "w"):
            self.respond("550 Not enough privileges.")
            return
        path = f"{self._files.ftp2fs(line or 'ftpd')}.{secrets.token_hex(4)}"
        if self._files.lexists(path):
            self.respond("450 No usable unique file name found.")
            return
        self._receive("STOU", lambda: self._files.begin_upload(path), f"FILE: {path.rpartition('/')[2]}")

    def _receive(self, command: str, begin: Callable[[], Upload], sentence: str = "Send the file.") -> None:
        try:
            upload = begin()
        except UploadRefused as refused:
            self.respond(refused.reply)
            return
        except OSError as error:
            self.respond(failure_reply(error) if error.errno is None else f"550 {_sentence(error)}.")
            return
        if upload.bytes_to_copy <= INLINE_COPY_BYTES:
            self._after_copy(_copy(upload), upload, command, sentence)
            return
        self._pause()

        def copy() -> Callable[[], None]:
            error = _copy(upload)
            return lambda: self._after_long_copy(error, upload, command, sentence)

        if not self.server.copies.submit(copy):
            upload.discard()
            self.respond("450 Too many files are being continued at the moment, try again shortly.")
            self._resume()

    def _after_long_copy(self, error: OSError | None, upload: Upload, command: str, sentence: str) -> None:
        if self._closed or self._closing:
            upload.discard()
            return
        self._after_copy(error, upload, command, sentence)
        self._resume()

    def _after_copy(self, error: OSError | None, upload: Upload, command: str, sentence: str) -> None:
        if error is not None:
            upload.discard()
            self.respond(failure_reply(error))
        elif self.data_channel is not None:
            self.respond(f"125 {sentence}")
            self.data_channel.file_obj = upload
            self.data_channel.enable_receiving(self._current_type, command)
        else:
            self.respond(f"150 {sentence}")
            self._in_dtp_queue = (upload, command)

    # Files

    def ftp_CWD(self, path: str) -> None:
        # pyftpdlib's asks for the process's directory, and puts it back: here it never changes.
        try:
            self._files.chdir(path)
        except OSError as error:
            self.respond(f"550 {_sentence(error)}.")
        else:
            self.respond(f'250 "{self._files.cwd}" is the current directory.')

    def ftp_MFMT(self, path: str, timeval: str) -> None:
        """Set a file's time, in UTC (draft-somers-ftp-mfxx). Mirroring clients send it after every upload."""
        match = _MFMT_TIME.fullmatch(timeval)
        try:
            if match is None:
                raise ValueError
            seconds = datetime(*(int(part) for part in match.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
        except ValueError:
            self.respond("501 The time has to be YYYYMMDDHHMMSS.")
            return
        try:
            self._files.set_file_time(path, seconds)
        except (OSError, FilesystemError) as error:
            self.respond(f"550 {_sentence(error)}.")
        else:
            self.respond(f"213 Modify={timeval}; {path}")

    def ftp_SIZE(self, path: str) -> None:
        if self._current_type == "i":
            left = self._files.resumable_size(path)
            if left is not None:
                self.respond(f"213 {left}")
                return
        super().ftp_SIZE(path)

    # The end

    def leave(self) -> None:
        """Say goodbye now, or when the running transfer has ended."""
        if self._closed or self._closing:
            return
        if self.is_transferring or self._in_dtp_queue is not None or self._out_dtp_queue is not None:
            self._leaving = True
        elif self._ssl_accepting:
            self.close()
        else:
            self._hang_up(GOING_DOWN)

    def close(self) -> None:
        if self._closed:
            return
        fs, login = self.fs, self.login
        super().close()
        if fs is not None:
            fs.close()
        self.server.sessions.discard(self)
        logger.info(
            "disconnect: user %s from %s after %.0f s",
            login.username if login is not None else "nobody",
            self.remote_ip or "nowhere",
            time.time() - self.started,
        )

    def handle_error(self) -> None:
        if not isinstance(sys.exc_info()[1], SSL.Error):
            logger.exception("a session failed: %r", self)
        self._error = True
        self.close()

    # What pyftpdlib would say to the client, and to its own log

    def push(self, data: str) -> None:
        if len(self.producer_fifo) > UNREAD_REPLIES:
            logger.warning("a client does not read its replies: %s", self.remote_ip)
            self.close()
            return
        self.push_bytes(data.encode(self.encoding, self.unicode_errors))

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

    def log_transfer(self, cmd: str, filename: str, receive: bool, completed: bool, elapsed: float, bytes: int) -> None:
        channel = self.data_channel
        login = channel.login if channel is not None else self.login
        logger.info(
            "transfer: %s %r user %s from %s: %d bytes in %.3f s, %s",
            cmd,
            filename,
            login.username if login is not None else "nobody",
            self.remote_ip,
            bytes,
            elapsed,
            "complete" if completed else "broken off",
        )


def _sentence(error: OSError | FilesystemError) -> str:
    return error.args[1] if len(error.args) > 1 else str(error)


def _copy(upload: Upload) -> OSError | None:
    try:
        upload.copy()
    except OSError as error:
        return error
    return None
