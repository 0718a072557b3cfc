"""A listening socket on the loop that outlives what goes wrong with single connections."""

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from pyftpdlib.ioloop import Acceptor

from wsp.errors import StartupError
from wsp.ftp.server.loop import Loop

BACKLOG = 1024
NO_DESCRIPTORS_SECONDS = 0.5  # how long nobody is let in when the process has no descriptor left

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


class PatientAcceptor(Acceptor):
    """Waits a moment when the process has no descriptor left."""

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

    def handle_error(self) -> None:
        # pyftpdlib's closes the listening socket: one bad connection would end the service.
        logger.exception("a connection could not be accepted")


class SecondDoor(PatientAcceptor):
    """One more listening socket, for the same sessions."""

    def __init__(self, sock: socket.socket, loop: Loop, accepted: Callable[[socket.socket, Any], None]) -> None:
        super().__init__(ioloop=loop.io)
        self._accepted = accepted
        sock.setblocking(False)
        self.set_socket(sock)
        self.listen(BACKLOG)

    def handle_accepted(self, sock: socket.socket, addr: Any) -> None:
        self._accepted(sock, addr)


def listening_socket(host: str, port: int, *, shared: bool, setting: str = "WSP_FTP_PORT") -> socket.socket:
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
            raise StartupError(f"the FTP port {port} on {host} is in use ({setting})") from None
        raise StartupError(f"cannot listen for FTP on {host} port {port} ({setting}): {error.strerror}") from None
    return sock
