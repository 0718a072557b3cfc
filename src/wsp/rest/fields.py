"""Field rules that more than one area uses, as named types with a description and an example."""

import re
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_network
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from wsp.addresses import normal_address

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_DOMAIN_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_DOMAIN_LABEL}(\.{_DOMAIN_LABEL})*")

_OWN_HOST = ("localhost", "localhost.localdomain")

MAX_NETWORKS = 1000


def one_line(value: str) -> str:
    """Refuse control characters: NUL cannot be stored, and a line break has no place in a name."""
    if _CONTROL_CHARACTERS.search(value):
        raise ValueError("must not contain control characters")
    return value


def without_nul(value: str) -> str:
    """Refuse NUL: no store, and nothing that is handed to a program, can have one."""
    if "\0" in value:
        raise ValueError("must not contain NUL")
    return value


def not_blank(value: str) -> str:
    """Refuse a text of spaces alone, as if it were missing."""
    if not value.strip():
        raise PydanticCustomError("string_too_short", "blank", {"min_length": 1})
    return value


def _domain(value: str) -> str:
    lowered = value.lower()
    if lowered and not _DOMAIN.fullmatch(lowered):
        raise ValueError("must be a host name, as in example.com (international names in their xn-- form)")
    return lowered


def _network(value: str) -> str:
    try:
        if "%" in value:
            raise ValueError("an interface of this machine says nothing about a client")
        if "/" not in value:
            return normal_address(value)
        network = ip_network(value)
        mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
        # Clients are told apart by their IPv4 addresses, also where they come in mapped into IPv6.
        return f"{mapped}/{network.prefixlen - 96}" if mapped and network.prefixlen >= 96 else str(network)
    except ValueError:
        pass
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be an address or a network, as in 203.0.113.7 or 203.0.113.0/24") from None
    raise ValueError(f"is not the address of a network; {meant} would be")


def _unique(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _email(value: str) -> str:
    if not value:
        return value
    name, _, host = value.rpartition("@")
    # An address on the machine itself is a fine place for cron mail; the library holds it for a mistake.
    checked = f"{name}@example.com" if host.lower() in _OWN_HOST else value
    try:
        validate_email(checked, check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError:
        raise ValueError("must be an e-mail address, or empty") from None
    return value


Name = Annotated[
    str,
    Field(min_length=1, max_length=100),
    AfterValidator(one_line),
    AfterValidator(not_blank),
    AfterValidator(str.strip),
]

Domain = Annotated[
    str,
    Field(max_length=253, description="A domain of the owner, or empty", examples=["example.com"]),
    AfterValidator(_domain),
]

Owner = Annotated[
    str,
    Field(
        min_length=1, max_length=32, description="The owner; only an admin may name somebody else", examples=["admin"]
    ),
    AfterValidator(one_line),
]

Network = Annotated[str, Field(max_length=49), AfterValidator(_network)]

Networks = Annotated[
    list[Network],
    Field(
        max_length=MAX_NETWORKS,
        description="Addresses or networks (CIDR) that are let in; an empty list lets in every address",
        examples=[["203.0.113.0/24"]],
    ),
    AfterValidator(_unique),
]

Email = Annotated[
    str,
    Field(max_length=254, description="An e-mail address, or empty", examples=["ops@example.com"]),
    AfterValidator(_email),
]

Timestamp = Annotated[
    str,
    Field(
        description="RFC 3339 with a numeric offset, whole seconds, in the server's time zone",
        examples=["2026-05-18T17:44:36+07:00"],
    ),
]

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
# In every time zone these are still years that a date can have.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def instant(value: str) -> datetime:
    """The instant that an RFC 3339 text with an offset means, in UTC and whole seconds. Raises ValueError."""
    try:
        if not _INSTANT.fullmatch(value):
            raise ValueError
        parsed = datetime.fromisoformat(value.upper()).replace(microsecond=0)
        if not EARLIEST <= parsed < LATEST:
            raise ValueError
        return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time with an offset (RFC 3339), as in 2026-05-18T17:44:36+07:00") from None


UNSET_TIME: Literal["0001-01-01T00:00:00Z"] = "0001-01-01T00:00:00Z"


def rfc3339(instant: datetime, zone: ZoneInfo) -> str:
    """An instant as answers show it: `2026-05-18T17:44:36+07:00`."""
    return instant.astimezone(zone).isoformat(timespec="seconds")
