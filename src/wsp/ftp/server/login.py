"""Who is on the other side: USER, PASS, TLS (RFC 4217). Logins are checked off the loop; sessions wait for it."""

import logging
import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.logins import Login
from wsp.ftp.server.authenticator import Granted, Permissions, Refused
from wsp.ftp.server.control import ControlChannel
from wsp.ftp.server.filesystem import JailedFilesystem

FAILED_LOGIN_SECONDS = 1.0  # what a wrong password costs the client
BUSY = "421 Too many logins are waiting to be checked, try again shortly."
NOT_IN_CLEAR = "530 No login in clear text here: {how}."
PROTECT_DATA = "534 Data connections have to be protected here (PROT P)."  # RFC 2228: refused for policy reasons

logger = logging.getLogger(__name__)


class LoginChannel(ControlChannel):
    """A control channel that somebody can log in on."""

    # pyftpdlib is untyped: these are its own.
    authenticated: bool
    authorizer: Permissions
    fs: JailedFilesystem | None

    # Settings of the server.
    implicit_tls_port: int | None = None
    requires_tls = False

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.login: Login | None = None
        self._pbsz = self._prot = False
        # Whether this came in on the port that speaks TLS from the first byte.
        self.is_implicit = self.implicit_tls_port is not None and _local_port(conn) == self.implicit_tls_port
        super().__init__(conn, server, ioloop)
        self.ssl_context = server.certificates.context()

    @property
    def _files(self) -> JailedFilesystem:
        if self.fs is None:
            raise FilesystemError("Not logged in")
        return self.fs

    # Logging in

    def ftp_USER(self, line: str) -> None:
        if self.requires_tls and not self._ssl_established:
            # Before the client sends its password, which is all that this can save.
            self.respond(NOT_IN_CLEAR.format(how=how_to_use_tls(self.implicit_tls_port)))
            return
        super().ftp_USER(line)

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
        self._pbsz = self._prot = self.is_implicit

    # TLS

    @classmethod
    def get_ssl_context(cls) -> None:
        """pyftpdlib would have one for the whole class; here each session has its own from the certificates of now."""

    def handle(self) -> None:
        if self.is_implicit and not self._ssl_established:
            self.secure_connection(self.ssl_context)
        else:
            super().handle()

    def handle_ssl_established(self) -> None:
        if self.is_implicit:
            # Nobody who speaks implicit TLS expects clear data connections; many send PBSZ and PROT all the same.
            self._pbsz = self._prot = True
            self.handle()

    def ftp_AUTH(self, line: str) -> None:
        # What came behind AUTH in clear text may be somebody else's: it must not run inside TLS (CVE-2011-1575).
        self._forget_input()
        if self.authenticated and not isinstance(self.socket, SSL.Connection):
            self.flush_account()
        super().ftp_AUTH(line)

    @property
    def must_protect_data(self) -> bool:
        """Whether the server or the account allows no data connection without TLS."""
        return self.requires_tls or (self.login is not None and self.login.require_tls)

    def ftp_PROT(self, line: str) -> None:
        if line.upper() == "C" and self.must_protect_data:
            self.respond(PROTECT_DATA)
            return
        super().ftp_PROT(line)

    def handle_failed_ssl_handshake(self) -> None:
        logger.info("TLS handshake failed: %s", self.remote_ip)
        self.close()


def how_to_use_tls(implicit_tls_port: int | None) -> str:
    """What a client has to do, in words that its user understands."""
    explicit = "use explicit FTPS (AUTH TLS)"
    return explicit if implicit_tls_port is None else f"{explicit}, or implicit FTPS on port {implicit_tls_port}"


def _local_port(conn: socket.socket) -> int | None:
    try:
        return int(conn.getsockname()[1])
    except OSError:
        return None
