"""Short-lived passwords of an account, for CI: each is bound to a folder and to addresses, and ends by itself.

A secret has 192 random bits, so a plain hash of it is enough to find it by, and a login with it costs no slow hash.
"""

import hashlib
import re
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.errors import Conflict, NotFound
from wsp.ftp import service
from wsp.ftp.models import Credential
from wsp.paging import Page, fetch, matching

PREFIX = "wspftp_"
SECRET_BYTES = 24
MAX_CREDENTIALS = 100  # of one account at a time
USED_SECONDS = 60  # how exact `last_used_at` is: a client with ten connections writes once

_SECRET = re.compile(rf"{PREFIX}[0-9a-f]{{{2 * SECRET_BYTES}}}")


def issue_credential(
    session: Session,
    visible_to: str | None,
    username: str,
    *,
    folder: str,
    allowed_ips: list[str],
    expires_in: int,
    description: str,
    now: datetime,
) -> tuple[Credential, str]:
    """A new credential, valid for `expires_in` seconds, and its secret, which is kept nowhere.

    Those of the account that have expired are removed. Raises NotFound; Conflict when the account has too many.
    """
    account = service.get_account(session, visible_to, username, change=True)
    session.execute(delete(Credential).where(Credential.username == account.username, Credential.expires_at <= now))
    there = select(func.count()).select_from(Credential).where(Credential.username == account.username)
    if (session.scalar(there) or 0) >= MAX_CREDENTIALS:
        raise Conflict(f"The account has {MAX_CREDENTIALS} credentials already: revoke some, or let them expire")
    secret = PREFIX + secrets.token_hex(SECRET_BYTES)
    credential = Credential(
        id=secrets.token_hex(8),
        username=account.username,
        secret_hash=_hash(secret),
        folder=folder,
        allowed_ips=allowed_ips,
        description=description,
        expires_at=now + timedelta(seconds=expires_in),
        created_at=now,
    )
    session.add(credential)
    session.flush()
    return credential, secret


def list_credentials(
    session: Session, visible_to: str | None, username: str, page: Page, *, now: datetime
) -> tuple[list[Credential], int]:
    """A part of an account's credentials that have not expired, by age; and how many match. Raises NotFound."""
    account = service.get_account(session, visible_to, username)
    query = select(Credential).where(Credential.username == account.username, Credential.expires_at > now)
    query = matching(query, page.search, [Credential.folder, Credential.description])
    return fetch(session, query.order_by(Credential.created_at, Credential.id), page)


def revoke_credential(session: Session, visible_to: str | None, username: str, id: str) -> None:
    """Remove a credential; its sessions end. Raises NotFound."""
    account = service.get_account(session, visible_to, username)
    credential = session.get(Credential, id)
    if credential is None or credential.username != account.username:
        raise NotFound("Credential not found")
    session.delete(credential)
    session.flush()
    epochs.move(session, "ftp")


def is_secret(password: str) -> bool:
    """Whether a password has the form of a credential's secret: only then is it worth asking for one."""
    return _SECRET.fullmatch(password) is not None


def find_credential(session: Session, username: str, password: str) -> Credential | None:
    """The credential of an account whose secret this is, also when it has expired."""
    return session.scalar(
        select(Credential).where(Credential.secret_hash == _hash(password), Credential.username == username)
    )


def note_use(session: Session, credential: Credential, *, now: datetime) -> None:
    """Remember when the credential was last used, to the minute."""
    session.execute(update(Credential).where(Credential.id == credential.id).values(last_used_at=now))


def needs_note(credential: Credential, *, now: datetime) -> bool:
    """Whether `note_use()` has something new to say."""
    return credential.last_used_at is None or now - credential.last_used_at >= timedelta(seconds=USED_SECONDS)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
