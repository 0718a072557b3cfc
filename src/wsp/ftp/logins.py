"""What the FTP server reads from the store to let somebody in, and the one thing it writes back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.homes import home_dir
from wsp.owners import ACTIVE, OWNERS

NAMES_IN_QUERY = 500

_ANONYMOUS_AT = "anonymous@"


@dataclass(frozen=True, slots=True)
class Login:
    """An account as the FTP server sees it. `password_hash` is empty for anonymous access: any password fits."""

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
    owner_active: bool = True
    folder: str = "/"
    """The folder of the home that sessions see as `/`: a short-lived credential may be bound to one."""
    credential_id: str = ""
    credential_ips: tuple[str, ...] = ()


_ACCOUNTS = FtpAccount.__table__

# Plain columns of the table and one statement for all names: this is asked at every login, and making objects, or the
# statement anew, costs more than the query.
_LOGINS = select(_ACCOUNTS, OWNERS.c.status).select_from(_ACCOUNTS).join(OWNERS, OWNERS.c.username == _ACCOUNTS.c.owner)
_LOGIN = _LOGINS.where(_ACCOUNTS.c.username == bindparam("username"))

_ANONYMOUS = (
    select(AnonymousAccess)
    .join(OWNERS, OWNERS.c.username == AnonymousAccess.owner)
    .where(AnonymousAccess.enabled, OWNERS.c.status == ACTIVE)
)


def find_login(session: Session, username: str) -> Login | None:
    """The account of that full user name, or None. `enabled` is false as well when its owner is not active."""
    row = session.execute(_LOGIN, {"username": username}).one_or_none()
    return None if row is None else _account(row)


def find_logins(session: Session, usernames: Iterable[str]) -> dict[str, Login | None]:
    """What the store says now of accounts, and of anonymous access under its name, `anonymous@<domain>`.

    None: there is no such account (any more), or the domain's anonymous access is off.
    """
    found: dict[str, Login | None] = dict.fromkeys(usernames)
    domains = {name.removeprefix(_ANONYMOUS_AT) for name in found if name.startswith(_ANONYMOUS_AT)}
    for names in _chunks(name for name in found if not name.startswith(_ANONYMOUS_AT)):
        for row in session.execute(_LOGINS.where(_ACCOUNTS.c.username.in_(names))):
            found[row.username] = _account(row)
    for names in _chunks(domains):
        for access in session.scalars(_ANONYMOUS.where(AnonymousAccess.domain.in_(names))):
            login = _anonymous(access)
            found[login.username] = login
    return found


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(names)
    while chunk := list(islice(waiting, NAMES_IN_QUERY)):
        yield chunk


def _account(row: Any) -> Login:
    active = row.status == ACTIVE
    return Login(
        username=row.username,
        owner=row.owner,
        home_dir=row.home_dir,
        password_hash=row.password_hash,
        read_only=row.read_only,
        enabled=row.enabled and active,
        allowed_ips=tuple(row.allowed_ips),
        credential_version=row.credential_version,
        quota_mb=row.quota_mb,
        require_tls=row.require_tls,
        expires_at=row.expires_at,
        max_sessions=row.max_sessions,
        upload_kbps=row.upload_kbps,
        download_kbps=row.download_kbps,
        permissions=tuple(row.permissions or ()),
        owner_active=active,
    )


def find_anonymous(session: Session, domain: str) -> list[Login]:
    """The anonymous logins that are on for `domain`; with an empty `domain`, two of all that are on.

    Two are enough to know that the domain has to be named.
    """
    query = _ANONYMOUS.order_by(AnonymousAccess.domain).limit(2)
    if domain:
        query = query.where(AnonymousAccess.domain == domain)
    return [_anonymous(access) for access in session.scalars(query)]


def _anonymous(access: AnonymousAccess) -> Login:
    return Login(
        username=f"{_ANONYMOUS_AT}{access.domain}",
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
        allow_mkdir=access.allow_mkdir,
        welcome_message=access.welcome_message,
    )


def replace_password_hash(session: Session, username: str, old: str, new: str) -> bool:
    """Store a better hash of the same password, unless the password was changed meanwhile. True: stored."""
    replaced = session.scalar(
        update(FtpAccount)
        .where(FtpAccount.username == username, FtpAccount.password_hash == old)
        .values(password_hash=new)
        .returning(FtpAccount.id)
    )
    return replaced is not None
