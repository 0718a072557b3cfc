"""Client addresses, and lists of networks that they are held against."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


@lru_cache(maxsize=4096)
def normal_address(address: str) -> str:
    """An address as it is compared and logged: an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2) is the IPv4 one.

    Raises ValueError for what is no address.
    """
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


def address_allowed(address: str, networks: Sequence[str]) -> bool:
    """Is the address in one of the networks (or one of the addresses)? An empty list allows every address."""
    if not networks:
        return True
    try:
        parsed = ip_address(normal_address(address))
    except ValueError:
        return False
    return any(parsed in network for network in _parsed(tuple(networks)))


@lru_cache(maxsize=1024)
def _parsed(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text, strict=False) for text in networks)
