"""What the FTP server reads from the store to let somebody in, and the one thing it writes back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session

from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.homes import home_dir
from wsp.owners import ACTIVE, OWNERS

INCOMING = "incoming"
"""The folder of a domain that strangers leave files in."""

# Strangers read everything but what other strangers left, and what those leave is seen by nobody without an account:
# else it would be a place to pass on things behind the owner's back. That stays so when uploads are off again.
_STRANGERS_RULES: tuple[dict[str, Any], ...] = (
    {"folder": "/", "allow": ["list", "read"]},
    {"folder": f"/{INCOMING}", "allow": ["write"]},
)


@dataclass(frozen=True, slots=True)
class Login:
    """An account as the FTP server sees it. `password_hash` is empty for anonymous access: any password fits.

    `domains`: of the anonymous login to several domains at once, each with its home; that login has no home itself.
    """

    username: str
    owner: str
    home_dir: str
    password_hash: str
    read_only: bool
    enabled: bool
    allowed_ips: tuple[str, ...]
    anonymous: bool = False
    credential_version: int = 1
    quota_mb: int = 0
    require_tls: bool = False
    expires_at: datetime | None = None
    max_sessions: int = 0
    upload_kbps: int = 0
    download_kbps: int = 0
    permissions: tuple[dict[str, Any], ...] = ()
    allow_mkdir: bool = False
    welcome_message: str = ""
    domains: tuple[tuple[str, str], ...] = ()


def find_login(session: Session, username: str) -> Login | None:
    """The account of that full user name, or None. `enabled` is false as well when its owner is not active."""
    row = session.execute(
        select(FtpAccount, OWNERS.c.status)
        .join(OWNERS, OWNERS.c.username == FtpAccount.owner)
        .where(FtpAccount.username == username)
    ).one_or_none()
    if row is None:
        return None
    account, status = row
    return Login(
        username=account.username,
        owner=account.owner,
        home_dir=account.home_dir,
        password_hash=account.password_hash,
        read_only=account.read_only,
        enabled=account.enabled and status == ACTIVE,
        allowed_ips=tuple(account.allowed_ips),
        credential_version=account.credential_version,
        quota_mb=account.quota_mb,
        require_tls=account.require_tls,
        expires_at=account.expires_at,
        max_sessions=account.max_sessions,
        upload_kbps=account.upload_kbps,
        download_kbps=account.download_kbps,
        permissions=tuple(account.permissions or ()),
    )


def find_anonymous(session: Session, domain: str = "") -> Login | None:
    """The anonymous login to `domain`, or None when it is not on.

    Without a domain: to the one that has it on, or when there are several to a folder of them all.
    """
    query = (
        select(AnonymousAccess)
        .join(OWNERS, OWNERS.c.username == AnonymousAccess.owner)
        .where(AnonymousAccess.enabled, OWNERS.c.status == ACTIVE)
        .order_by(AnonymousAccess.domain)
    )
    found = session.scalars(query.where(AnonymousAccess.domain == domain) if domain else query).all()
    if len(found) > 1:
        return _login_to_several(found)
    return _login_to_one(found[0]) if found else None


def _login_to_one(access: AnonymousAccess) -> Login:
    return Login(
        username=f"anonymous@{access.domain}",
        owner=access.owner,
        home_dir=home_dir(access.owner, access.domain),
        password_hash="",
        read_only=access.read_only or not access.allow_upload,
        enabled=True,
        allowed_ips=(),
        anonymous=True,
        quota_mb=access.quota_mb,
        max_sessions=access.max_connections,
        upload_kbps=access.rate_kbps,
        download_kbps=access.rate_kbps,
        permissions=_STRANGERS_RULES,
        allow_mkdir=access.allow_mkdir,
        welcome_message=access.welcome_message,
    )


def _login_to_several(found: Sequence[AnonymousAccess]) -> Login:
    return Login(
        username="anonymous",
        owner="",
        home_dir="/",
        password_hash="",
        read_only=True,
        enabled=True,
        allowed_ips=(),
        anonymous=True,
        # It opens each of the domains, so it is held to the strictest limit that one of them has.
        max_sessions=_strictest(access.max_connections for access in found),
        download_kbps=_strictest(access.rate_kbps for access in found),
        permissions=_STRANGERS_RULES,
        domains=tuple((access.domain, home_dir(access.owner, access.domain)) for access in found),
    )


def _strictest(limits: Iterable[int]) -> int:
    """The lowest limit; 0 is none."""
    return min((limit for limit in limits if limit), default=0)


def find_domain(session: Session, host: str) -> str | None:
    """The domain that a host name stands for: `example.com` and `ftp.example.com` for example.com; None: for none.

    Domains are known by their anonymous access, on or off, and by their accounts.
    """
    for domain in dict.fromkeys((host, host.removeprefix("ftp."))):
        known = or_(exists().where(AnonymousAccess.domain == domain), exists().where(FtpAccount.domain == domain))
        if domain and session.scalar(select(known)):
            return domain
    return None


def replace_password_hash(session: Session, username: str, old: str, new: str) -> bool:
    """Store a better hash of the same password, unless the password was changed meanwhile. True: stored."""
    replaced = session.scalar(
        update(FtpAccount)
        .where(FtpAccount.username == username, FtpAccount.password_hash == old)
        .values(password_hash=new)
        .returning(FtpAccount.id)
    )
    return replaced is not None
