"""Who is on the other side: USER, PASS, TLS (RFC 4217). Logins are checked off the loop; sessions wait for it."""

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.admission import session_limit, too_many_sessions
from wsp.ftp.logins import Login
from wsp.ftp.permissions import Permissions
from wsp.ftp.server.authenticator import UNAVAILABLE, Attempt, Granted, Refused, Unverified
from wsp.ftp.server.domains import DomainJails, DomainsFilesystem
from wsp.ftp.server.filesystem import JailedFilesystem
from wsp.ftp.server.host import HostCommand
from wsp.ftp.server.shared import TableFull
from wsp.ftp.server.tally import Tally

VERDICT_SECONDS = 30.0  # a store that has not answered by then does not answer
FAILED_LOGIN_SECONDS = 1.0  # what a wrong password costs the client, or a multiple of it when checks have to wait
NO_LEDGER = "421 What this account uses cannot be kept right now, try again later."
BUSY = "421 Too many logins are waiting to be checked, try again shortly."
TOO_MANY_OF_ACCOUNT = "421 This account has too many sessions, close one or try again later."
NOT_IN_CLEAR = "530 No login in clear text here: {how}."
PROTECT_DATA = "534 Data connections have to be protected here (PROT P)."  # RFC 2228: refused for policy reasons

logger = logging.getLogger(__name__)


class LoginChannel(HostCommand):
    """A control channel that somebody can log in on."""

    # pyftpdlib is untyped: these are its own.
    authenticated: bool
    authorizer: Permissions
    fs: JailedFilesystem | None
    seat: int

    # Settings of the server.
    implicit_tls_port: int | None = None
    requires_tls = False

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.login: Login | None = None
        self._pbsz = self._prot = False
        self._looks = 0
        self._second, self._commands = 0.0, 0  # how many commands came before the login, in the present second
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
        authenticator, asked_at = self.server.authenticator, time.monotonic()
        attempt = Attempt(self.username, line, self.remote_ip, bool(self._ssl_established), self.hosts)
        self._looks = self.server.looks
        self._pause()

        def look_up() -> Callable[[], None]:
            verdict = authenticator.look_up(attempt)
            return lambda: self._on_verdict(attempt, verdict, asked_at)

        if not self.server.logins.submit(look_up):
            self._hang_up(BUSY)
            return
        self._verdict_due = self.ioloop.call_later(VERDICT_SECONDS, self._no_verdict)

    def _no_verdict(self) -> None:
        """The store does not answer; the thread that asked it may wait much longer."""
        if not self.is_ending:
            logger.error("a login could not be checked in %.0f s: user %r", VERDICT_SECONDS, self.username)
            self._hang_up(UNAVAILABLE)

    def _on_verdict(self, attempt: Attempt, verdict: Granted | Refused | Unverified, asked_at: float) -> None:
        if not isinstance(verdict, Unverified):
            self._verdict_due.cancel()
        if isinstance(verdict, Refused):
            self.server.note_refusal(attempt, verdict)
        if self.is_ending or attempt.username != self.username or self.authenticated:
            if isinstance(verdict, Granted):
                verdict.jail.close()  # nobody is there any more to let in
        elif isinstance(verdict, Unverified):
            self._hash(attempt, verdict, asked_at)
        elif isinstance(verdict, Refused):
            self._on_refused(verdict, asked_at)
        else:
            self._on_granted(attempt, verdict)

    def _hash(self, attempt: Attempt, unverified: Unverified, asked_at: float) -> None:
        authenticator = self.server.authenticator

        def verify() -> Callable[[], None]:
            verdict = authenticator.verify(attempt, unverified)
            return lambda: self._on_verdict(attempt, verdict, asked_at)

        if not self.server.hashes.submit(verify):
            self._hang_up(BUSY)

    def _on_granted(self, attempt: Attempt, granted: Granted) -> None:
        login, limit = granted.login, session_limit(granted.login, self.server.policy)
        if not self.server.seats.sit(self.seat, login.username, limit):
            granted.jail.close()
            refused = Refused(TOO_MANY_OF_ACCOUNT, too_many_sessions(limit).message, login)
            self.server.note_refusal(attempt, refused)
            self._hang_up(refused.reply)
            return
        try:
            # Who looks at several domains changes nothing in any of them: one of their homes does.
            home = login.domains[0][1] if login.domains else login.home_dir
            tally = Tally(self.server.ledger, home, self._quota_of(login))
        except (OSError, TableFull) as error:
            logger.error("the usage of %s cannot be kept: %s", login.home_dir, error or type(error).__name__)
            granted.jail.close()
            self._hang_up(NO_LEDGER)
            return
        self.login = login
        self.authorizer = Permissions(login)
        view = DomainsFilesystem if isinstance(granted.jail, DomainJails) else JailedFilesystem
        self.fs = view(granted.jail, tally, login.username, self, resumes=not login.anonymous)
        self.authenticated = True
        self.attempted_logins = 0
        self.server.newcomers.pop(self, None)
        logger.info(
            "login: user %s from %s, TLS %s",
            login.username,
            self.remote_ip,
            self._ssl_established,
            extra={
                "event": "login",
                "session": self.id,
                "account": login.username,
                "address": self.remote_ip,
                "tls": self._ssl_established,
            },
        )
        self.on_login(login.username)
        if self._looks != self.server.looks:
            # While this one was being checked, accounts were looked at for the sessions that were in already.
            self.server.look_again()
        for welcome in login.welcome_message.splitlines():
            self.push(f"230-{welcome}\r\n")
        self.respond("230 Logged in.")
        self._resume()

    def _on_refused(self, refused: Refused, asked_at: float) -> None:
        self.username = ""
        if refused.reply.startswith("421"):
            self._hang_up(refused.reply)
            return
        # At a full second after the question: how long the check took, which depends on how the account's password
        # was hashed, must not tell that there is an account.
        passed = (time.monotonic() - asked_at) % FAILED_LOGIN_SECONDS
        self.call_later(FAILED_LOGIN_SECONDS - passed, self._refuse, refused.reply)

    def _quota_of(self, first: Login) -> Callable[[], int]:
        """The quota (MB) of this login as it is at the time. A transfer goes on after USER, as whose it was."""

        def quota_mb() -> int:
            login = self.login
            return (login if login is not None and login.username == first.username else first).quota_mb

        return quota_mb

    def _refuse(self, reply: str) -> None:
        if self.is_ending:
            return
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
        self.server.seats.stand(self.seat)
        self.server.await_login(self)
        if self.fs is not None:
            self.fs.close()
            self.fs = None

    def ftp_REIN(self, line: str) -> None:
        super().ftp_REIN(line)
        self.host = ""  # RFC 7151, 3.3
        self._pbsz = self._prot = self.is_implicit

    # Before the login

    def turn_out(self, reply: str) -> None:
        """End a session that is not logged in."""
        if self.is_ending:
            return
        if self._ssl_accepting:
            self.close()  # in the middle of a handshake, nothing can be said
        else:
            self._hang_up(reply)

    def _may_run(self) -> bool:
        """A client that is not logged in, and sends commands faster than allowed, waits for the next second."""
        if self.authenticated:
            return True
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._commands = now, 0
        if self._commands >= self.server.commands_before_login:
            self._pause()
            self.call_later(1.0 - (now - self._second), self._resume)
            return False
        self._commands += 1
        return True

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
