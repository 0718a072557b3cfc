"""The listening socket, the sessions that came of it, and their orderly end."""

import logging
import socket
from typing import Any

from pyftpdlib.servers import FTPServer

from wsp.ftp.server.acceptor import BACKLOG, PatientAcceptor, SecondDoor
from wsp.ftp.server.authenticator import Authenticator
from wsp.ftp.server.loop import Loop, Offload
from wsp.ftp.server.pace import Paces
from wsp.ftp.server.session import GOING_DOWN, Session
from wsp.ftp.server.tls import Certificates
from wsp.ftp.server.tls_data import TlsDataChannel
from wsp.settings import Settings

LOGIN_THREADS = 2
LOGINS_WAITING = 512
COPY_THREADS = 4
COPIES_WAITING = 32
PUBLISH_THREADS = 4
DRAIN_SECONDS = 5.0  # how long running transfers may go on after SIGTERM
DRAIN_POLL_SECONDS = 0.05

TOO_MANY = "421 Too many sessions, try again later."

logger = logging.getLogger(__name__)


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
        self.paces = paces
        self.sessions: set[Session] = set()
        self.logins = Offload(loop, name="ftp-login", threads=LOGIN_THREADS, waiting=LOGINS_WAITING)
        self.copies = Offload(loop, name="ftp-copy", threads=COPY_THREADS, waiting=COPIES_WAITING)
        # Every session may wait here: on the loop, a disk would hold up all others.
        self.publishes = Offload(loop, name="ftp-publish", threads=PUBLISH_THREADS, waiting=settings.ftp_max_sessions)
        self._loop = loop
        self._max_sessions = settings.ftp_max_sessions
        self._stopping = False
        self._doors: list[PatientAcceptor] = [self]
        if implicit is not None:
            self._doors.append(SecondDoor(implicit, loop, self.handle_accepted))

    def handle_accepted(self, sock: socket.socket, addr: Any) -> None:
        if self._stopping or len(self.sessions) >= self._max_sessions:
            _turn_away(sock, GOING_DOWN if self._stopping else TOO_MANY)
            return
        session = self.handler(sock, self, ioloop=self.ioloop)
        if session.connected:
            self.sessions.add(session)
            session.handle()

    def stop(self) -> None:
        """Let nobody in any more, say 421 to the idle, give transfers until the deadline, then end the loop."""
        if self._stopping:
            return
        self._stopping = True
        logger.info("stopping, %d sessions", len(self.sessions))
        for door in self._doors:
            _empty_backlog(door.socket)
            door.close()
        for session in list(self.sessions):
            session.leave()
        self.ioloop.call_later(DRAIN_SECONDS, self._cut)
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self.sessions:
            self.ioloop.call_later(DRAIN_POLL_SECONDS, self._end_when_empty)
        else:
            self._loop.stop()

    def _cut(self) -> None:
        for session in list(self.sessions):
            logger.info("cut off at the deadline: %r", session)
            session.close()
        self._loop.stop()


def _empty_backlog(listening: socket.socket) -> None:
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        _turn_away(sock, GOING_DOWN)


def _turn_away(sock: socket.socket, reply: str) -> None:
    with sock:
        sock.setblocking(False)
        try:
            sock.send(f"{reply}\r\n".encode())
        except OSError as error:
            logger.debug("a client that was turned away had left: %s", error)
