"""What the FTP server reads from the store to let somebody in, and the one thing it writes back."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.homes import home_dir
from wsp.owners import ACTIVE, OWNERS


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
    )


def find_anonymous(session: Session, domain: str) -> list[Login]:
    """The anonymous logins that are on for `domain`; with an empty `domain`, two of all that are on.

    Two are enough to know that the domain has to be named.
    """
    query = (
        select(AnonymousAccess)
        .join(OWNERS, OWNERS.c.username == AnonymousAccess.owner)
        .where(AnonymousAccess.enabled, OWNERS.c.status == ACTIVE)
        .order_by(AnonymousAccess.domain)
        .limit(2)
    )
    if domain:
        query = query.where(AnonymousAccess.domain == domain)
    return [
        Login(
            username=f"anonymous@{access.domain}",
            owner=access.owner,
            home_dir=home_dir(access.owner, access.domain),
            password_hash="",
            read_only=not access.allow_upload,
            enabled=True,
            allowed_ips=(),
            anonymous=True,
        )
        for access in session.scalars(query)
    ]


def replace_password_hash(session: Session, username: str, old: str, new: str) -> bool:
    """Store a better hash of the same password, unless the password was changed meanwhile. True: stored."""
    replaced = session.scalar(
        update(FtpAccount)
        .where(FtpAccount.username == username, FtpAccount.password_hash == old)
        .values(password_hash=new)
        .returning(FtpAccount.id)
    )
    return replaced is not None
