"""Who is on the other side: USER, PASS, TLS. A login is checked off the loop, and the session waits meanwhile."""

import logging
import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.logins import Login
from wsp.ftp.server.authenticator import UNAVAILABLE, Granted, Permissions, Refused
from wsp.ftp.server.control import ControlChannel
from wsp.ftp.server.filesystem import JailedFilesystem

VERDICT_SECONDS = 30.0  # a store that has not answered by then does not answer
FAILED_LOGIN_SECONDS = 1.0  # what a wrong password costs the client
BUSY = "421 Too many logins are waiting to be checked, try again shortly."

logger = logging.getLogger(__name__)


class LoginChannel(ControlChannel):
    """A control channel that somebody can log in on."""

    # pyftpdlib is untyped: these are its own.
    authenticated: bool
    authorizer: Permissions
    fs: JailedFilesystem | None

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.login: Login | None = None
        self._pbsz = self._prot = False
        super().__init__(conn, server, ioloop)

    @property
    def _files(self) -> JailedFilesystem:
        if self.fs is None:
            raise FilesystemError("Not logged in")
        return self.fs

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
            return
        self._verdict_due = self.ioloop.call_later(VERDICT_SECONDS, self._no_verdict)

    def _no_verdict(self) -> None:
        """The store does not answer; the thread that asked it may wait much longer."""
        if not self.is_ending:
            logger.error("a login could not be checked in %.0f s: user %r", VERDICT_SECONDS, self.username)
            self._hang_up(UNAVAILABLE)

    def _on_verdict(self, username: str, verdict: Granted | Refused) -> None:
        if self.is_ending or username != self.username or self.authenticated:
            if isinstance(verdict, Granted):
                verdict.jail.close()  # nobody is there any more to let in
            return
        self._verdict_due.cancel()
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
