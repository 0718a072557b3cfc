"""Data connections: passive ones in the configured ports only, active ones to the client's own address only."""

import errno
import ipaddress
import logging
import random
import socket
from typing import Any

from pyftpdlib.handlers.ftp.dispatchers import PassiveDTP
from pyftpdlib.ioloop import Acceptor

from wsp.addresses import normal_address

CONNECT_SECONDS = 30  # how long a client may take to connect
BACKLOG = 5

NO_PORTS = "425 Every passive port is in use, try again shortly."
NOT_CONNECTED = "425 No data connection was made in time."
NEEDS_EPSV = "425 PASV is for IPv4, use EPSV."

logger = logging.getLogger(__name__)


class PassiveListener(PassiveDTP):
    """Waits for the client's one data connection.

    Its own constructor: pyftpdlib's falls back to a random port, which a firewall drops, and lists the whole range
    for each transfer.
    """

    timeout = CONNECT_SECONDS

    def __init__(self, cmd_channel: Any, extmode: bool = False) -> None:
        self.cmd_channel = cmd_channel
        self.log = cmd_channel.log
        self.log_exception = cmd_channel.log_exception
        Acceptor.__init__(self, ioloop=cmd_channel.ioloop)
        local = cmd_channel.socket.getsockname()[0]
        told = cmd_channel.masquerade_address or normal_address(local)
        if not extmode and ":" in told:
            told = normal_address(local)  # PASV has room for four bytes only
            if ":" in told:
                cmd_channel.respond(NEEDS_EPSV)
                return
        bound = _bind(cmd_channel.socket.family, local, cmd_channel.passive_ports)
        if bound is None:
            logger.warning("every passive port is in use")
            cmd_channel.respond(NO_PORTS)
            return
        self.set_socket(bound)
        self.accepting = True
        port = bound.getsockname()[1]
        if extmode:
            cmd_channel.respond(f"229 Entering extended passive mode (|||{port}|).")
        else:
            numbers = [*told.split("."), str(port // 256), str(port % 256)]
            cmd_channel.respond(f"227 Entering passive mode ({','.join(numbers)}).")
        self.call_later(self.timeout, self.handle_timeout)

    @property
    def is_listening(self) -> bool:
        """False when no port was free, or the client asked for what cannot be; it has been told."""
        return self.socket is not None

    def handle_timeout(self) -> None:
        if self.cmd_channel.connected:
            self.cmd_channel.respond(NOT_CONNECTED)
        self.close()

    def handle_accepted(self, sock: socket.socket, addr: tuple[Any, ...]) -> None:
        super().handle_accepted(sock, (normal_address(addr[0]), addr[1]))


def _bind(family: int, address: str, ports: range) -> socket.socket | None:
    """A listening socket on a free port of the range, or None. Other processes share the range."""
    start = random.randrange(len(ports))  # noqa: S311 - spreads the ports, protects nothing
    for step in range(len(ports)):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, ports[(start + step) % len(ports)]))
            # Two processes may bind the same port; the second to listen is refused.
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            sock.setblocking(False)
            return sock
    return None


def same_address(one: str, other: str) -> bool:
    """Whether two texts name the same address; a text that names none is never the same."""
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False
