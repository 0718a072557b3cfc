"""Users and API keys: who may call, and as whom."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.auth.models import ApiKey, User
from wsp.database import utc_now
from wsp.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from wsp.paging import Page, fetch, matching

KEY_PREFIX = "wsp_"
KEY_HEX_DIGITS = 48
SHOWN_PREFIX_CHARS = 12
LAST_USED_RESOLUTION = timedelta(minutes=1)  # `last_used` is written at most this often, never per request

ROLES = ("admin", "user")
STATUSES = ("active", "disabled")

# The part before the first "_" of an FTP user name is its owner, so an owner's name has none.
USERNAME_PATTERN = r"[a-z][a-z0-9-]{0,31}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, and what the key in their hand allows."""

    user_id: int
    username: str
    email: str
    role: str
    status: str
    key_id: str
    permissions: tuple[str, ...]
    ip_whitelist: tuple[str, ...]
    key_expires_at: datetime | None
    user_created_at: datetime

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def sees_owner(self) -> str | None:
        """The only owner whose things exist for this principal; None: everybody's."""
        return None if self.is_admin else self.username

    def may(self, area: str, *, reading: bool) -> bool:
        """Does the key allow this area (`ftp`, `cron`, `users`)? `read` allows every GET."""
        return "all" in self.permissions or area in self.permissions or (reading and "read" in self.permissions)

    def owner_for(self, owner: str | None) -> str:
        """The owner of something this principal creates. Only an admin may name somebody else."""
        if owner is None or owner == self.username:
            return self.username
        if not self.is_admin:
            raise Forbidden("Only an admin may set the owner")
        return owner


_BY_HASH = (
    select(
        ApiKey.id,
        ApiKey.user_id,
        ApiKey.permissions,
        ApiKey.ip_whitelist,
        ApiKey.enabled,
        ApiKey.expires_at,
        ApiKey.last_used_at,
        User.username,
        User.email,
        User.role,
        User.status,
        User.created_at.label("user_created_at"),
    )
    .join(User, User.id == ApiKey.user_id)
    .where(ApiKey.key_hash == bindparam("key_hash"))
)  # built once: it runs with every request


# --- Keys -------------------------------------------------------------------------------------------------------


def hash_key(secret: str) -> str:
    """What is stored of a key. It is 192 random bits, so one SHA-256 is as good as a slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(session: Session, secret: str, now: datetime) -> tuple[Principal, datetime | None]:
    """The principal of a key, and when the key was last used.

    Raises Unauthorized, with one sentence for a key that is unknown, expired, disabled or revoked, and for a
    user who is disabled.
    """
    row = session.execute(_BY_HASH, {"key_hash": hash_key(secret)}).one_or_none()
    if row is None or not row.enabled or row.status != "active":
        raise Unauthorized
    if row.expires_at is not None and row.expires_at <= now:
        raise Unauthorized
    principal = Principal(
        user_id=row.user_id,
        username=row.username,
        email=row.email,
        role=row.role,
        status=row.status,
        key_id=row.id,
        permissions=tuple(row.permissions),
        ip_whitelist=tuple(row.ip_whitelist),
        key_expires_at=row.expires_at,
        user_created_at=row.user_created_at,
    )
    return principal, row.last_used_at


def touch_key(session: Session, key_id: str, now: datetime) -> None:
    """Note that a key was used."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now))


def issue_key(
    session: Session,
    user: User,
    *,
    name: str,
    permissions: Sequence[str] = ("all",),
    ip_whitelist: Sequence[str] = (),
    expires_in: int = 0,
) -> tuple[ApiKey, str]:
    """Make a key for a user. `expires_in` is in days, 0 = never.

    Returns the key and its secret, which is not to be had again.
    """
    now = utc_now()
    secret = KEY_PREFIX + secrets.token_hex(KEY_HEX_DIGITS // 2)
    key = ApiKey(
        id=secrets.token_hex(8),
        user_id=user.id,
        name=name,
        key_hash=hash_key(secret),
        key_prefix=secret[:SHOWN_PREFIX_CHARS],
        permissions=list(permissions),
        ip_whitelist=list(ip_whitelist),
        created_at=now,
        expires_at=now + timedelta(days=expires_in) if expires_in else None,
    )
    session.add(key)
    session.flush()
    return key, secret


def check_delegation(
    principal: Principal, *, permissions: Sequence[str], ip_whitelist: Sequence[str], expires_in: int
) -> None:
    """A key never hands out more than it has itself. Raises Forbidden with what is too much."""
    if "all" not in principal.permissions:
        beyond = [permission for permission in permissions if permission not in principal.permissions]
        if beyond:
            raise Forbidden(f"A key cannot issue a key with more permissions than its own: {', '.join(beyond)}")
    if principal.ip_whitelist:
        own = [ip_network(network) for network in principal.ip_whitelist]
        asked = [ip_network(network) for network in ip_whitelist]
        # The versions are compared first; the type checker cannot see that the two are of one kind then.
        inside = [any(a.version == o.version and a.subnet_of(o) for o in own) for a in asked]  # type: ignore[arg-type]
        if not asked or not all(inside):
            raise Forbidden("A key cannot issue a key for more addresses than its own")
    if principal.key_expires_at is not None:
        ends = utc_now() + timedelta(days=expires_in)
        if expires_in == 0 or ends > principal.key_expires_at:
            raise Forbidden("A key cannot issue a key that lives longer than itself")


def list_keys(session: Session, user: User | None = None) -> list[ApiKey]:
    """The keys of a user, or of everybody, oldest first."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    if user is not None:
        query = query.where(ApiKey.user_id == user.id)
    return list(session.scalars(query))


def page_of_keys(session: Session, user: User, page: Page) -> tuple[list[ApiKey], int]:
    """A part of a user's keys, oldest first, and how many they are in all."""
    query = select(ApiKey).where(ApiKey.user_id == user.id).order_by(ApiKey.created_at, ApiKey.id)
    return fetch(session, matching(query, page.search, [ApiKey.name, ApiKey.key_prefix]), page)


def revoke_key(session: Session, user: User | None, key_id: str) -> None:
    """Remove a key for good. Raises NotFound; with a user given, also for a key of somebody else."""
    key = session.get(ApiKey, key_id)
    if key is None or (user is not None and key.user_id != user.id):
        raise NotFound("API key not found")
    session.delete(key)
    session.flush()


# --- Users ------------------------------------------------------------------------------------------------------


def create_user(session: Session, username: str, *, email: str = "", role: str = "user") -> User:
    """Add a user. Raises Invalid for a name or role that is not allowed, Conflict for a name in use."""
    if not re.fullmatch(USERNAME_PATTERN, username):
        raise Invalid(
            "Username must begin with a lower-case letter and have at most 32 lower-case letters, digits or '-'",
            field="username",
        )
    _check_choice("role", role, ROLES)
    now = utc_now()
    user = User(username=username, email=email, role=role, status="active", created_at=now, updated_at=now)
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(f"User '{username}' already exists") from None
    return user


def list_users(session: Session) -> list[User]:
    """Every user, by name."""
    return list(session.scalars(select(User).order_by(User.username)))


def get_user(session: Session, username: str) -> User:
    """One user. Raises NotFound."""
    user = session.scalar(select(User).where(User.username == username))
    if user is None:
        raise NotFound("User not found")
    return user


def change_user(
    session: Session, username: str, *, email: str | None = None, role: str | None = None, status: str | None = None
) -> User:
    """Change what is given. Raises Conflict when it would leave no active admin."""
    user = get_user(session, username)
    if email is not None:
        user.email = email
    if role is not None:
        _check_choice("role", role, ROLES)
        user.role = role
    if status is not None:
        _check_choice("status", status, STATUSES)
        user.status = status
    user.updated_at = utc_now()
    session.flush()
    if status is not None:
        epochs.move(session, "ftp")  # the sessions of what they own end, or may begin again
    _check_an_admin_is_left(session)
    return user


def remove_user(session: Session, username: str) -> None:
    """Remove a user, with their keys, webhooks and anonymous access.

    Raises Conflict while they own accounts or jobs, and for the last admin.
    """
    user = get_user(session, username)
    session.delete(user)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(f"User '{username}' still owns FTP accounts or cron jobs; delete those first") from None
    epochs.move(session, "ftp")  # their anonymous access is gone
    _check_an_admin_is_left(session)


def _check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise Invalid(f"{field.capitalize()} must be one of {', '.join(allowed)}", field=field)


def _check_an_admin_is_left(session: Session) -> None:
    admins = select(func.count()).select_from(User).where(User.role == "admin", User.status == "active")
    if not session.scalar(admins):
        raise Conflict("The last active admin must stay")
