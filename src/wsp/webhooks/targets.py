"""Where a webhook's URL leads, and whether this server may go there.

Whoever makes a webhook has this machine send requests. So it does not call addresses that are not of the public
internet: they may be ours alone to reach. A name is resolved once for each attempt, all that it resolves to has to be
public, and the connection goes to what was looked at: a name that means something else a moment later changes nothing.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")

# Below what Python's `is_global` knows, which differs between its versions.
# https://www.iana.org/assignments/iana-ipv4-special-registry, …ipv6-special-registry
_SPECIAL = [
    ip_network(network)
    for network in (
        "100.64.0.0/10",  # shared by carriers (RFC 6598)
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "2001::/23",  # Teredo among others: an IPv4 address is hidden in it
        "2002::/16",  # 6to4: the same
        "3fff::/20",  # documentation (RFC 9637)
    )
]
_PUBLIC_IPV6 = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in its last 32 bits


class Undeliverable(Exception):
    """Why an attempt failed, in a few words."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL. `path` is what a request asks for, with the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> Target:
    """Take a URL apart. Raises ValueError with what a URL must be like."""
    if not re.fullmatch(r"[!-~]*", url):
        raise ValueError("must be ASCII without spaces (international names in their xn-- form)")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        raise ValueError("must be a URL, as in https://example.com/hook") from None
    if parts.scheme not in PORTS or not host:
        raise ValueError("must be an http or https URL, as in https://example.com/hook")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password: deliveries are signed instead")
    is_ipv6 = "%" not in host and isinstance(_literal(host), IPv6Address)
    if port == 0 or not (is_ipv6 if "[" in parts.netloc else _NAME.fullmatch(host)):
        raise ValueError("must have a host name or an address, and a port from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def refuse_private(target: Target) -> None:
    """Raise ValueError for a target that is this machine or in a private network, as far as its name tells."""
    address = _literal(target.host)
    if address is None:
        if target.host == "localhost" or target.host.endswith(".localhost"):
            raise ValueError("must not lead to this machine")
    elif not is_public(address):
        raise ValueError("must not lead to a private, local or reserved address")


def resolve(target: Target, *, allow_private: bool) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses to connect to, in the order of preference. Blocks. Raises Undeliverable."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Undeliverable(f"the name {target.host} cannot be resolved") from None
    addresses: list[tuple[socket.AddressFamily, Any]] = [(family, address) for family, _, _, _, address in found]
    for _, address in addresses:
        if not allow_private and not is_public(ip_address(str(address[0]).partition("%")[0])):
            raise Undeliverable(f"the name {target.host} leads to {address[0]}, which is not a public address")
    return addresses


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Is it an address of a host on the public internet?"""
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped
        if embedded is None and address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
        if address not in _PUBLIC_IPV6:
            return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _SPECIAL)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is written as, if it is; in any of the forms that resolvers take, 127.1 among them."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
