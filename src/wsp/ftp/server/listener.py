"""The listening socket, the sessions that came of it, and their orderly end."""

import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from pyftpdlib.servers import FTPServer

from wsp.addresses import normal_address
from wsp.database import utc_now
from wsp.ftp.admission import Policy
from wsp.ftp.guests import subject_of
from wsp.ftp.logins import Login
from wsp.ftp.server.acceptor import BACKLOG, PatientAcceptor, SecondDoor
from wsp.ftp.server.authenticator import Attempt, Authenticator, Refused, could_be_account
from wsp.ftp.server.bans import Bans
from wsp.ftp.server.checksum import Checksums
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.leftovers import Leftovers
from wsp.ftp.server.loop import Loop, Offload
from wsp.ftp.server.pace import Paces
from wsp.ftp.server.reporter import Reporter
from wsp.ftp.server.seats import Seats
from wsp.ftp.server.session import GOING_DOWN, OUT_OF_TIME, Session
from wsp.ftp.server.shared import STATE_FOLDER
from wsp.ftp.server.tally import unlink
from wsp.ftp.server.tls import Certificates
from wsp.ftp.server.tls_data import TlsDataChannel
from wsp.settings import Settings

LOGIN_THREADS = 4  # they wait for PostgreSQL most of the time; SQLite is all processor time, and one is faster
HASH_THREADS = 2
LOGINS_WAITING = 512
COPY_THREADS = 4
COPIES_WAITING = 32
PUBLISH_THREADS = 4
DIGEST_THREADS = 2
DIGESTS_WAITING = 64
LATE_POLL_SECONDS = 1.0
SESSIONS_AT_ONCE = 200  # that learn of changes before others get their turn
DRAIN_POLL_SECONDS = 0.05

ENDED_BY_REQUEST = "The session was ended by the account's owner or an administrator."
TOO_MANY = "421 Too many sessions, try again later."
TOO_MANY_FROM_THERE = "421 Too many sessions from your address, close one or try again later."
LATE = "421 You did not log in in time."

logger = logging.getLogger(__name__)


def banned_reply(until: datetime, now: datetime) -> str:
    """What a banned address is told."""
    minutes = math.ceil((until - now).total_seconds() / 60)
    return f"421 Too many failed logins from your address, try again in {minutes} minute{'s' * (minutes != 1)}."


class Listener(PatientAcceptor, FTPServer):
    """Accepts sessions and keeps the list of them."""

    max_cons = 0  # it would count data connections too; `max_sessions` counts sessions

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        settings: Settings,
        certificates: Certificates,
        authenticator: Authenticator,
        bans: Bans,
        seats: Seats,
        reporter: Reporter,
        look_again: Callable[[], None],
        ledger: Ledger,
        paces: Paces,
        *,
        implicit: socket.socket | None = None,
    ) -> None:
        """`sock` is the FTP port; `implicit` is the one where sessions speak TLS from the first byte."""
        first, last = settings.ftp_passive_ports
        channel = type(
            "ConfiguredChannel",
            (TlsDataChannel,),
            {
                "timeout": settings.ftp_idle_timeout,
                "requires_resumption": settings.ftp_require_tls_resumption,
                "requires_farewell": settings.ftp_strict_tls,
                "fsync": settings.ftp_fsync,
            },
        )
        session = type(
            "ConfiguredSession",
            (Session,),
            {
                "dtp_handler": channel,
                "implicit_tls_port": settings.ftp_implicit_tls_port,
                "requires_tls": settings.ftp_require_tls,
                "passive_ports": range(first, last + 1),
                "masquerade_address": settings.ftp_masquerade_address,
                "timeout": settings.ftp_idle_timeout,
            },
        )
        super().__init__(sock, session, ioloop=loop.io, backlog=BACKLOG)
        self.certificates = certificates
        self.authenticator = authenticator
        self.reporter = reporter
        self.looks = 0
        """How often the accounts of the sessions were looked at anew."""
        self.look_again = look_again
        self.bans = bans
        self.seats = seats
        self.policy = Policy.of(settings)
        self.commands_before_login = settings.ftp_commands_before_login
        self.ledger = ledger
        self.paces = paces
        self.sessions: set[Session] = set()
        self.newcomers: dict[Session, float] = {}
        """Those who are not logged in, and until when (`time.monotonic()`) they have time for it; in that order."""
        threads = 1 if settings.database.startswith("sqlite") else LOGIN_THREADS
        self.logins = Offload(loop, name="ftp-login", threads=threads, waiting=LOGINS_WAITING)
        self.hashes = Offload(loop, name="ftp-hash", threads=HASH_THREADS, waiting=LOGINS_WAITING)
        self.copies = Offload(loop, name="ftp-copy", threads=COPY_THREADS, waiting=COPIES_WAITING)
        # Every session may wait here: on the loop, a disk would hold up all others.
        self.publishes = Offload(loop, name="ftp-publish", threads=PUBLISH_THREADS, waiting=settings.ftp_max_sessions)
        self.digests = Offload(loop, name="ftp-digest", threads=DIGEST_THREADS, waiting=DIGESTS_WAITING)
        self.checksums = Checksums(loop, settings.ftp_upload_checksum)
        self.leftovers = Leftovers(
            settings.data_dir.absolute() / STATE_FOLDER,
            settings.files,
            settings.ftp_keep_partial_hours * 3600.0,
            partial(unlink, ledger),
        )
        self.keep_releases = settings.ftp_keep_releases
        self._loop = loop
        self._drain_seconds = settings.ftp_drain_seconds
        self._login_timeout = settings.ftp_login_timeout
        self._per_address = settings.ftp_max_sessions_per_address
        self._implicit_port = settings.ftp_implicit_tls_port
        self._stopping = False
        self._turn_out_the_late()
        self._doors: list[PatientAcceptor] = [self]
        if implicit is not None:
            self._doors.append(SecondDoor(implicit, loop, self.handle_accepted))

    def handle_accepted(self, sock: socket.socket, addr: Any) -> None:
        if self._stopping:
            self._turn_away(sock, GOING_DOWN)
            return
        address, now = normal_address(addr[0]), utc_now()
        until = self.bans.until(address, now)
        if until is not None:
            self._turn_away(sock, banned_reply(until, now))
            return
        limit = 0 if self._per_address == 0 or self.bans.is_exempt(address) else self._per_address
        seat = self.seats.take(subject_of(address), limit)
        if seat is None:
            self._turn_away(sock, TOO_MANY if self.seats.is_full() else TOO_MANY_FROM_THERE)
            return
        try:
            session = self.handler(sock, self, ioloop=self.ioloop)
        except BaseException:
            self.seats.leave(seat)
            raise
        if not session.connected:
            self.seats.leave(seat)
            return
        session.seat = seat
        self.sessions.add(session)
        self.await_login(session)
        session.handle()

    def await_login(self, session: Session) -> None:
        """Give a session its time to log in."""
        self.newcomers.pop(session, None)
        self.newcomers[session] = time.monotonic() + self._login_timeout

    def forget(self, session: Session) -> None:
        """A session has ended."""
        if session in self.sessions:
            self.sessions.discard(session)
            self.newcomers.pop(session, None)
            self.seats.leave(session.seat)

    def turn_out_the_banned(self) -> None:
        """End the sessions of banned addresses, but for those that are logged in."""
        now = utc_now()
        for session in list(self.newcomers):
            until = self.bans.until(session.remote_ip, now)
            if until is not None:
                session.turn_out(banned_reply(until, now))

    def note_refusal(self, attempt: Attempt, refused: Refused) -> None:
        """Tell of a login that failed."""
        account = refused.login
        # A name that no account can have may be a password that was typed in the wrong place.
        shown = repr(attempt.username) if account or could_be_account(attempt.username) else "(no account's name)"
        logger.info(
            "login failed: user %s from %s: %s",
            shown,
            attempt.address,
            refused.reason,
            extra={
                "event": "login_failed",
                "account": account.username if account is not None else "",
                "address": attempt.address,
                "tls": attempt.tls,
                "reason": refused.reason,
            },
        )
        if account is not None:
            self.reporter.login_failed(
                account.username, account.owner, attempt.address, refused.reason, tls=attempt.tls
            )

    def _turn_out_the_late(self) -> None:
        now = time.monotonic()
        for session, until in list(self.newcomers.items()):
            if until > now:
                break
            if session.is_ending:
                session.close()  # it does not even read its last reply
            else:
                session.turn_out(LATE)
        if not self._closed:
            self.ioloop.call_later(LATE_POLL_SECONDS, self._turn_out_the_late)

    # What accounts become

    def accounts_in_use(self) -> set[str]:
        """The accounts of the sessions and of the running transfers. Who logs in from now on has to ask again."""
        self.looks += 1
        return {login.key for session in self.sessions for login in session.logins}

    def accounts_are(self, current: Mapping[str, Login | None], ending: Collection[str]) -> None:
        """Bring to the sessions what their accounts are now, and end those whose ids are among `ending`."""
        sessions = list(self.sessions)

        def go_on() -> None:
            for session in sessions[-SESSIONS_AT_ONCE:]:
                if session.id in ending:
                    session.cut(ENDED_BY_REQUEST)
                else:
                    session.accounts_are(current, utc_now())
            del sessions[-SESSIONS_AT_ONCE:]
            if sessions:
                self._loop.call(go_on)

        go_on()

    def stop(self) -> None:
        """Let nobody in any more, say 421 to the idle, give transfers until the deadline, then end the loop."""
        if self._stopping:
            return
        self._stopping = True
        logger.info("stopping, %d sessions", len(self.sessions))
        for door in self._doors:
            self._empty_backlog(door.socket)
            door.close()
        for session in list(self.sessions):
            session.leave()
        self.ioloop.call_later(self._drain_seconds, self._cut)
        self._end_when_empty()

    def _empty_backlog(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            self._turn_away(sock, GOING_DOWN)

    def _turn_away(self, sock: socket.socket, reply: str) -> None:
        """Let nobody in, and say why; but nothing can be said in clear text to who speaks TLS from the first byte."""
        with sock:
            sock.setblocking(False)
            try:
                if self._implicit_port is None or sock.getsockname()[1] != self._implicit_port:
                    sock.send(f"{reply}\r\n".encode())
            except OSError as error:
                logger.debug("a client that was turned away had left: %s", error)

    def _end_when_empty(self) -> None:
        if self.sessions:
            self.ioloop.call_later(DRAIN_POLL_SECONDS, self._end_when_empty)
        else:
            self._loop.stop()

    def _cut(self) -> None:
        for session in list(self.sessions):
            session.cut(OUT_OF_TIME)
            session.close()
        self._loop.stop()
