"""What the FTP server reads from the store to let somebody in, and the one thing it writes back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session

from wsp.ftp.models import AnonymousAccess, Credential, FtpAccount
from wsp.homes import home_dir
from wsp.owners import ACTIVE, OWNERS

NAMES_IN_QUERY = 500

ANONYMOUS = "anonymous"
"""The name of whoever visits several domains at once; `anonymous@<domain>` is in that domain alone."""

INCOMING = "incoming"
"""The folder of a domain that strangers leave files in."""

# Strangers read everything but what other strangers left, and what those leave is seen by nobody without an account:
# else it would be a place to pass on things behind the owner's back. That stays so when uploads are off again.
_STRANGERS_RULES: tuple[dict[str, Any], ...] = (
    {"folder": "/", "allow": ["list", "read"]},
    {"folder": f"/{INCOMING}", "allow": ["write"]},
)

_ANONYMOUS_AT = f"{ANONYMOUS}@"
_CREDENTIAL = "#"  # no name of an account has it


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
    owner_active: bool = True
    domains: tuple[tuple[str, str], ...] = ()
    folder: str = "/"
    """The folder of the home that sessions see as `/`: a short-lived credential may be bound to one."""
    credential_id: str = ""
    credential_ips: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What tells apart who may be logged in: the account, or one of its credentials."""
        return f"{self.username}{_CREDENTIAL}{self.credential_id}" if self.credential_id else self.username

    def path_of(self, path: str) -> str:
        """A path that a session sees, as the account's own sessions see it."""
        return path if self.folder == "/" else f"{self.folder}{path}".rstrip("/")


_ACCOUNTS = FtpAccount.__table__

# Plain columns of the table and one statement for all names: this is asked at every login, and making objects, or the
# statement anew, costs more than the query.
_LOGINS = select(_ACCOUNTS, OWNERS.c.status).select_from(_ACCOUNTS).join(OWNERS, OWNERS.c.username == _ACCOUNTS.c.owner)
_LOGIN = _LOGINS.where(_ACCOUNTS.c.username == bindparam("username"))

_ANONYMOUS = (
    select(AnonymousAccess)
    .join(OWNERS, OWNERS.c.username == AnonymousAccess.owner)
    .where(AnonymousAccess.enabled, OWNERS.c.status == ACTIVE)
    .order_by(AnonymousAccess.domain)
)


def find_login(session: Session | Connection, username: str) -> Login | None:
    """The account of that full user name, or None. `enabled` is false as well when its owner is not active."""
    row = session.execute(_LOGIN, {"username": username}).one_or_none()
    return None if row is None else _account(row)


def find_logins(session: Session, keys: Iterable[str]) -> dict[str, Login | None]:
    """What the store says now of those who are logged in, by their `Login.key`.

    None: there is no such account or credential (any more), or the domain's anonymous access is off.
    """
    wanted = {key: key.partition(_CREDENTIAL) for key in keys}
    accounts = _find_accounts(session, {username for username, _, _ in wanted.values()})
    credentials = _find_credentials(session, {id for _, _, id in wanted.values() if id})
    found: dict[str, Login | None] = {}
    for key, (username, _, id) in wanted.items():
        login, credential = accounts[username], credentials.get(id)
        if not id:
            found[key] = login
        elif login is None or credential is None or credential.username != username:
            found[key] = None
        else:
            found[key] = narrowed(login, credential)
    return found


def _find_credentials(session: Session, ids: Iterable[str]) -> dict[str, Credential]:
    return {
        credential.id: credential
        for chunk in _chunks(ids)
        for credential in session.scalars(select(Credential).where(Credential.id.in_(chunk)))
    }


def _find_accounts(session: Session, usernames: Iterable[str]) -> dict[str, Login | None]:
    """Accounts, and anonymous access under its name, `anonymous@<domain>`."""
    found: dict[str, Login | None] = dict.fromkeys(usernames)
    domains = {name.removeprefix(_ANONYMOUS_AT) for name in found if name.startswith(_ANONYMOUS_AT)}
    for names in _chunks(name for name in found if not name.startswith(_ANONYMOUS_AT)):
        for row in session.execute(_LOGINS.where(_ACCOUNTS.c.username.in_(names))):
            found[row.username] = _account(row)
    if ANONYMOUS in found:
        found[ANONYMOUS] = _visitor(session.scalars(_ANONYMOUS).all())
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


def find_anonymous(session: Session, domain: str = "") -> Login | None:
    """The anonymous login to `domain`, or None when it is not on.

    Without a domain: to the one that has it on, or when there are several to a folder of them all.
    """
    found = session.scalars(_ANONYMOUS.where(AnonymousAccess.domain == domain) if domain else _ANONYMOUS).all()
    return _anonymous(found[0]) if len(found) == 1 else _visitor(found)


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
        permissions=_STRANGERS_RULES,
        allow_mkdir=access.allow_mkdir,
        welcome_message=access.welcome_message,
    )


def _visitor(found: Sequence[AnonymousAccess]) -> Login | None:
    if not found:
        return None
    return Login(
        username=ANONYMOUS,
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


def narrowed(login: Login, credential: Credential) -> Login:
    """The account's login as the credential has it: in its folder, from its addresses, until it expires.

    The rules of the account hold as they are: they name folders of the home, whatever of it is seen.
    """
    ends = credential.expires_at
    return replace(
        login,
        credential_id=credential.id,
        credential_ips=tuple(credential.allowed_ips),
        folder=credential.folder,
        expires_at=ends if login.expires_at is None else min(ends, login.expires_at),
    )
