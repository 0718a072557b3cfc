"""Who may log in: one decision, for the FTP server and for the API's check. It asks no store and no clock."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from wsp.addresses import address_allowed
from wsp.ftp.logins import Login
from wsp.settings import Settings


class Reason(StrEnum):
    """Why somebody is not let in, as the API names it."""

    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a reason, not a secret
    DISABLED = "disabled"
    OWNER_DISABLED = "owner_disabled"
    EXPIRED = "expired"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    ADDRESS_BANNED = "address_banned"
    TLS_REQUIRED = "tls_required"
    TOO_MANY_SESSIONS = "too_many_sessions"


@dataclass(frozen=True, slots=True)
class Denied:
    """A reason, and a sentence for the account's owner. The client is told less: see `Authenticator`."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the server's settings ask of every login. `max_sessions_per_account` 0 = no limit."""

    require_tls: bool = False
    max_sessions_per_account: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The policy of these settings."""
        return cls(settings.ftp_require_tls, settings.ftp_max_sessions_per_account)


def denial(login: Login, address: str, *, tls: bool, now: datetime, policy: Policy, sessions: int = 0) -> Denied | None:
    """Why `login` may not come in from `address`, or None when it may. The password is somebody else's question.

    `sessions` is how many the account has already.
    """
    if not login.owner_active:
        return Denied(Reason.OWNER_DISABLED, f"The user {login.owner}, who owns the account, is not active.")
    if not login.enabled:
        return Denied(Reason.DISABLED, "The account is disabled.")
    if login.expires_at is not None and login.expires_at <= now:
        expired = login.expires_at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
        return Denied(Reason.EXPIRED, f"The {'credential' if login.credential_id else 'account'} expired at {expired}.")
    if not address_allowed(address, login.allowed_ips):
        return Denied(Reason.ADDRESS_NOT_ALLOWED, f"The address {address} is not one that the account allows.")
    if not address_allowed(address, login.credential_ips):
        return Denied(Reason.ADDRESS_NOT_ALLOWED, f"The address {address} is not one that the credential allows.")
    if (login.require_tls or policy.require_tls) and not tls:
        whose = "account" if login.require_tls else "server"
        return Denied(Reason.TLS_REQUIRED, f"The {whose} needs TLS, and this is a login in clear text.")
    limit = session_limit(login, policy)
    if limit and sessions >= limit:
        return too_many_sessions(limit)
    return None


def session_limit(login: Login, policy: Policy) -> int:
    """How many sessions the account may have at once, the lower of its own limit and the server's; 0 = no limit.

    Anonymous access is shared by strangers: there the limit of its domain is the only one.
    """
    limits = [login.max_sessions] if login.anonymous else [login.max_sessions, policy.max_sessions_per_account]
    return min((limit for limit in limits if limit), default=0)


def too_many_sessions(limit: int) -> Denied:
    """The account has its `limit` of sessions."""
    return Denied(Reason.TOO_MANY_SESSIONS, f"The account has as many sessions as it may have at once: {limit}.")
