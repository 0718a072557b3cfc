"""What the API takes and says of guests: who is banned, and whether somebody would be let in."""

from ipaddress import ip_network
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from wsp.addresses import normal_address
from wsp.ftp.admission import Denied, Reason
from wsp.ftp.fields import Password
from wsp.ftp.guests import IPV6_PREFIX
from wsp.ftp.models import Guest
from wsp.rest.answers import Total
from wsp.rest.bodies import RequestBody, left_out
from wsp.rest.fields import Timestamp, rfc3339


def _address(value: str) -> str:
    try:
        if "%" in value:
            raise ValueError("an interface of this machine says nothing about a client")
        return normal_address(value)
    except ValueError:
        raise ValueError("must be an address, as in 203.0.113.7 or 2001:db8::1") from None


def _banned_address(value: str) -> str:
    """An address, or what a list of bans shows: an IPv6 network."""
    value = value.removesuffix("/")  # the parameter takes the rest of the path, slashes included
    network, slash, prefix = value.partition("/")
    if slash and prefix == str(IPV6_PREFIX) and ":" in network:
        try:
            return str(ip_network(value).network_address)
        except ValueError:
            pass
    return _address(value)


Address = Annotated[
    str,
    Field(title="Address", max_length=45, description="The client's address", examples=["203.0.113.7"]),
    AfterValidator(_address),
]
BannedAddress = Annotated[str, AfterValidator(_banned_address)]


class LoginCheck(RequestBody):
    """A login that somebody might try."""

    address: Address
    tls: Annotated[bool, Field(title="TLS", description="Does it come over TLS?", examples=[True])]
    password: Password = left_out()


class LoginVerdict(BaseModel):
    """Whether that login would be allowed. `reason` is empty when it would."""

    allowed: Annotated[bool, Field(examples=[False])]
    reason: Annotated[Reason | None, Field(examples=[Reason.ADDRESS_NOT_ALLOWED])]
    message: Annotated[str, Field(examples=["The address 203.0.113.7 is not one that the account allows."])]

    @classmethod
    def of(cls, denied: Denied | None, *, password_given: bool) -> Self:
        """The verdict as answers show it."""
        if denied is not None:
            return cls(allowed=False, reason=denied.reason, message=denied.message)
        allowed = "This login" if password_given else "A login with the right password"
        return cls(allowed=True, reason=None, message=f"{allowed} would be allowed.")


class BanOut(BaseModel):
    """An address that may not log in for now. `address` is a network of 64 bits for IPv6."""

    address: Annotated[str, Field(examples=["203.0.113.7"])]
    reason: Annotated[str, Field(examples=["10 failed logins, the last one for the account admin_deploy"])]
    banned_at: Timestamp
    banned_until: Timestamp
    bans: Annotated[int, Field(description="How often it was banned lately, this time included", examples=[1])]

    @classmethod
    def of(cls, guest: Guest, zone: ZoneInfo) -> Self:
        """A ban as answers show it."""
        assert guest.banned_at is not None  # noqa: S101 - a ban has both
        assert guest.banned_until is not None  # noqa: S101
        return cls(
            address=guest.subject,
            reason=guest.reason,
            banned_at=rfc3339(guest.banned_at, zone),
            banned_until=rfc3339(guest.banned_until, zone),
            bans=guest.bans,
        )


class BanList(BaseModel):
    """Bans in force, the latest first."""

    bans: list[BanOut]
    total: Total
