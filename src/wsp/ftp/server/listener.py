"""The listening socket, the sessions that came of it, and their orderly end."""

import errno
import logging
import socket
from typing import Any

from OpenSSL import SSL
from pyftpdlib.servers import FTPServer

from wsp.errors import StartupError
from wsp.ftp.server.authenticator import Authenticator
from wsp.ftp.server.data import TlsDataChannel
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.loop import Loop, Offload
from wsp.ftp.server.session import GOING_DOWN, Session
from wsp.settings import Settings

BACKLOG = 1024
LOGIN_THREADS = 2
LOGINS_WAITING = 512
COPY_THREADS = 4
COPIES_WAITING = 32
NO_DESCRIPTORS_SECONDS = 0.5  # how long nobody is let in when the process has no descriptor left
DRAIN_SECONDS = 5.0  # how long running transfers may go on after SIGTERM
DRAIN_POLL_SECONDS = 0.05

TOO_MANY = "421 Too many sessions, try again later."

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


def listening_socket(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound socket; `shared` lets other processes of this user bind the same port. Raises StartupError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartupError(f"WSP_FTP_HOST: {host} is not an address of this machine ({error.strerror})") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"the FTP port {port} on {host} is in use (WSP_FTP_PORT)") from None
        raise StartupError(f"cannot listen for FTP on {host} port {port}: {error.strerror}") from None
    return sock


class Listener(FTPServer):
    """Accepts sessions and keeps the list of them."""

    max_cons = 0  # it would count data connections too; `max_sessions` counts sessions

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        settings: Settings,
        context: SSL.Context,
        authenticator: Authenticator,
        ledger: Ledger,
    ) -> None:
        first, last = settings.ftp_passive_ports
        channel = type("Channel", (TlsDataChannel,), {"timeout": settings.ftp_idle_timeout})
        session = type(
            "ConfiguredSession",
            (Session,),
            {
                "dtp_handler": channel,
                "ssl_context": context,
                "passive_ports": range(first, last + 1),
                "masquerade_address": settings.ftp_masquerade_address,
                "timeout": settings.ftp_idle_timeout,
            },
        )
        super().__init__(sock, session, ioloop=loop.io, backlog=BACKLOG)
        self.authenticator = authenticator
        self.ledger = ledger
        self.sessions: set[Session] = set()
        self.logins = Offload(loop, name="ftp-login", threads=LOGIN_THREADS, waiting=LOGINS_WAITING)
        self.copies = Offload(loop, name="ftp-copy", threads=COPY_THREADS, waiting=COPIES_WAITING)
        self._loop = loop
        self._max_sessions = settings.ftp_max_sessions
        self._stopping = False

    def handle_accept(self) -> None:
        try:
            super().handle_accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            # The connection stays in the backlog and would be reported without end.
            logger.error("no new sessions for a moment: %s", error.strerror)
            self.del_channel()
            self.ioloop.call_later(NO_DESCRIPTORS_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if not self._closed:
            self.add_channel()

    def handle_accepted(self, sock: socket.socket, addr: Any) -> None:
        if self._stopping or len(self.sessions) >= self._max_sessions:
            _turn_away(sock, GOING_DOWN if self._stopping else TOO_MANY)
            return
        session = self.handler(sock, self, ioloop=self.ioloop)
        if session.connected:
            self.sessions.add(session)
            session.handle()

    def handle_error(self) -> None:
        # pyftpdlib's closes the listening socket: one bad connection would end the service.
        logger.exception("a connection could not be accepted")

    def stop(self) -> None:
        """Let nobody in any more, say 421 to the idle, give transfers until the deadline, then end the loop."""
        if self._stopping:
            return
        self._stopping = True
        logger.info("stopping, %d sessions", len(self.sessions))
        self._empty_backlog()
        self.close()
        for session in list(self.sessions):
            session.leave()
        self.ioloop.call_later(DRAIN_SECONDS, self._cut)
        self._end_when_empty()

    def _empty_backlog(self) -> None:
        while True:
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return
            _turn_away(sock, GOING_DOWN)

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


def _turn_away(sock: socket.socket, reply: str) -> None:
    with sock:
        sock.setblocking(False)
        try:
            sock.send(f"{reply}\r\n".encode())
        except OSError as error:
            logger.debug("a client that was turned away had left: %s", error)
