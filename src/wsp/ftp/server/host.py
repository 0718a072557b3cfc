"""HOST (RFC 7151): which of its domains the client wants, said before it logs in. TLS may have said so before (SNI)."""

import re
import socket
from collections.abc import Callable
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from pyftpdlib.handlers.ftps.control import TLS_FTPHandler

from wsp.addresses import normal_address
from wsp.ftp.server.authenticator import Hosts
from wsp.ftp.server.control import ControlChannel

_HOST = re.compile(r"[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\]", re.ASCII)


class HostCommand(ControlChannel):
    """A control channel that can be told a host name."""

    proto_cmds = TLS_FTPHandler.proto_cmds | {
        "HOST": {"perm": None, "auth": False, "arg": True, "help": "Syntax: HOST <SP> host-name (choose a domain)."}
    }

    # pyftpdlib is untyped: these are its own.
    authenticated: bool
    _extra_feats: list[str]

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.host = ""
        super().__init__(conn, server, ioloop)
        if self.connected:
            self._extra_feats.append("HOST")

    @property
    def hosts(self) -> Hosts:
        """What the client has said so far."""
        named = self.socket.get_servername() if isinstance(self.socket, SSL.Connection) else None
        return Hosts(self.host, (named or b"").decode("ascii", "replace").lower().rstrip("."))

    def ftp_HOST(self, line: str) -> None:
        host = line.lower().rstrip(".")
        if self.authenticated or self.username:
            self.respond("503 HOST comes before USER.")
            return
        if not _HOST.fullmatch(host):
            self.respond("501 That is no host name.")
            return
        authenticator, hosts = self.server.authenticator, self.hosts._replace(host=host)
        context, address = self.ssl_context, normal_address(self.socket.getsockname()[0])
        self._pause()

        def ask() -> Callable[[], None]:
            reply = authenticator.check_host(hosts, lambda: _own_names(context, address))
            return lambda: self._on_host(host, reply)

        if not self.server.logins.submit(ask):
            self._hang_up("421 Too many logins are waiting to be checked, try again shortly.")

    def _on_host(self, host: str, reply: str) -> None:
        if self.is_ending:
            return
        if reply.startswith("421"):
            self._hang_up(reply)
            return
        if reply.startswith("220"):
            self.host = host
        self.respond(reply)
        self._resume()


def _own_names(context: SSL.Context, address: str) -> frozenset[str]:
    """The names of the server itself: of its certificate and of its machine, and the address that the client uses."""
    names = {"localhost", socket.gethostname().lower(), address, f"[{address}]"}
    certificate = SSL.Connection(context).get_certificate()
    if certificate is not None:
        try:
            found = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return frozenset(names)
        names.update(name.lower() for name in found.value.get_values_for_type(x509.DNSName))
    return frozenset(names)
