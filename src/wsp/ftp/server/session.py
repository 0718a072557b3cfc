"""One client's session: logging in, TLS, data connections, uploads, and what pyftpdlib's commands do differently.

While a login is being checked, or an old file copied, the session waits without holding up the loop.
"""

import logging
import re
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.logins import Login
from wsp.ftp.server.authenticator import Granted, Permissions, Refused
from wsp.ftp.server.control import ControlChannel
from wsp.ftp.server.data import TlsDataChannel
from wsp.ftp.server.filesystem import JailedFilesystem
from wsp.ftp.server.passive import PassiveListener, same_address
from wsp.ftp.server.upload import Upload, UploadRefused, failure_reply

FAILED_LOGIN_SECONDS = 1.0  # what a wrong password costs the client
INLINE_COPY_BYTES = 2**20  # what is copied on the loop; more goes to a thread

_MFMT_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)
TRANSFERS = ("APPE", "LIST", "MLSD", "NLST", "RETR", "STOR", "STOU")
BUSY = "421 Too many logins are waiting to be checked, try again shortly."
GOING_DOWN = "421 The server is shutting down."
NO_DATA_CONNECTION = "425 Open a data connection first, with PASV, EPSV, PORT or EPRT."
ONE_TRANSFER = "503 A transfer is going on already."

logger = logging.getLogger(__name__)


class Session(ControlChannel):
    """What a client talks to. Its settings are class attributes: the listener makes a subclass with its own."""

    dtp_handler = TlsDataChannel
    passive_dtp = PassiveListener
    banner = "wsp FTP ready."

    # pyftpdlib is untyped: these are its own.
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
        self._leaving = False
        self._pbsz = self._prot = False
        super().__init__(conn, server, ioloop)

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
        if self.is_ending or username != self.username or self.authenticated:
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
        self.fs = JailedFilesystem(verdict.jail, verdict.login.username, self, adds_only=verdict.login.anonymous)
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

    def ftp_QUIT(self, line: str) -> None:
        """Say goodbye; a running transfer ends, and is answered, first (RFC 959)."""
        self.respond("221 Goodbye.")
        if self.is_transferring:
            self._quit_pending = True
            self._watch(0)
        else:
            self._shutdown_connecting_dtp()
            self.close_when_done()

    # TLS

    def ftp_AUTH(self, line: str) -> None:
        # What came behind AUTH in clear text may be somebody else's: it must not run inside TLS (CVE-2011-1575).
        self._forget_input()
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
        if self._closed:
            return
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
        if self.is_ending:
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
            # The pattern has six groups of digits; the type checker counts neither.
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
        if self.is_ending:
            return
        if self.is_transferring or self._in_dtp_queue is not None or self._out_dtp_queue is not None:
            self._leaving = True
        elif self._ssl_accepting:
            self.close()
        else:
            self._hang_up(GOING_DOWN)

    def close(self) -> None:
        if self._closed or self._in_command:
            super().close()
            return
        fs, login = self.fs, self.login
        super().close()
        self.data_channel = None  # pyftpdlib deletes it, while that channel itself may be about to close
        if fs is not None:
            fs.close()
        self.server.sessions.discard(self)
        logger.info(
            "disconnect: user %s from %s after %.0f s",
            login.username if login is not None else "nobody",
            self.remote_ip or "nowhere",
            time.time() - self.started,
        )

    def log_transfer(self, cmd: str, filename: str, receive: bool, completed: bool, elapsed: float, bytes: int) -> None:
        channel = getattr(self, "data_channel", None)
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
