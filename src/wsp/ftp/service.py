"""FTP accounts: create, find, change, remove. `visible_to` is the only owner whose accounts exist; None: all do."""

from typing import Any, cast

from sqlalchemy import Select, Table, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.database import utc_now
from wsp.errors import Conflict, NotFound
from wsp.ftp.announcements import announce_account, announce_changes
from wsp.ftp.models import FtpAccount
from wsp.ftp.records import LastSession
from wsp.homes import home_dir
from wsp.owners import require_owner
from wsp.paging import Page, Pieces, Shape, matching

# What a list shows: plain rows, which cost a fraction of what objects cost. Dashboards ask for lists all day.
_SHOWN = Shape(
    column
    for column in cast(Table, FtpAccount.__table__).columns
    if column.name not in ("id", "password_hash", "credential_version")
)


def create_account(session: Session, *, owner: str, name: str, password_hash: str, **columns: Any) -> FtpAccount:
    """Add the account `<owner>_<name>`. Columns that are not named hold their defaults.

    Raises Invalid when there is no such owner, Conflict when the name is in use.
    """
    now = utc_now()
    account = FtpAccount(
        username=f"{require_owner(session, owner)}_{name}",
        owner=owner,
        home_dir=home_dir(owner, columns.get("domain", ""), columns.get("home_subdir", "")),
        password_hash=password_hash,
        created_at=now,
        updated_at=now,
        **columns,
    )
    session.add(account)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(f"FTP account '{account.username}' already exists") from None
    announce_account(session, account, "account.created")
    return account


def list_accounts(session: Session, visible_to: str | None, page: Page) -> Pieces:
    """A part of the accounts, by name: rows with what is shown, not whole accounts."""
    query = matching(select(*_SHOWN.columns), page.search, [FtpAccount.username, FtpAccount.home_dir])
    if visible_to is not None:
        query = query.where(FtpAccount.owner == visible_to)
    if page.domain:
        query = query.where(FtpAccount.domain == page.domain)
    if page.owner:
        query = query.where(FtpAccount.owner == page.owner)
    return Pieces(session, _SHOWN, query, FtpAccount.username, page)


def count_accounts(session: Session, visible_to: str | None) -> int:
    """How many accounts there are."""
    return session.scalar(select(func.count()).select_from(_visible(visible_to).subquery())) or 0


def get_account(session: Session, visible_to: str | None, username: str, *, change: bool = False) -> FtpAccount:
    """One account by its full name; with `change`, locked until the commit. Raises NotFound."""
    query = _visible(visible_to).where(FtpAccount.username == username)
    account = session.scalar(query.with_for_update() if change else query)
    if account is None:
        raise NotFound("FTP account not found")
    return account


def change_account(session: Session, visible_to: str | None, username: str, changes: dict[str, Any]) -> FtpAccount:
    """Set the named columns, if there are any. Changing the domain or the folder in it moves the account's home.

    A new password ends the sessions that were let in with the old one; whatever else changes, they learn of it too.
    """
    account = get_account(session, visible_to, username, change=True)
    if not changes:
        return account
    changed = {name for name, value in changes.items() if getattr(account, name) != value}
    for name, value in changes.items():
        setattr(account, name, value)
    account.home_dir = home_dir(account.owner, account.domain, account.home_subdir)
    if "password_hash" in changes:
        account.credential_version += 1
    account.updated_at = utc_now()
    session.flush()
    announce_changes(session, account, changed)
    epochs.move(session, "ftp")
    return account


def toggle_account(session: Session, visible_to: str | None, username: str) -> FtpAccount:
    """Enable a disabled account, disable an enabled one."""
    enabled = get_account(session, visible_to, username, change=True).enabled
    return change_account(session, visible_to, username, {"enabled": not enabled})


def delete_account(session: Session, visible_to: str | None, username: str) -> None:
    """Remove the account, and what is remembered of its last session. Its files stay."""
    account = get_account(session, visible_to, username, change=True)
    session.delete(account)
    session.execute(delete(LastSession).where(LastSession.username == username))
    session.flush()
    announce_account(session, account, "account.deleted")
    epochs.move(session, "ftp")


def _visible(visible_to: str | None) -> Select[FtpAccount]:
    query = select(FtpAccount)
    return query if visible_to is None else query.where(FtpAccount.owner == visible_to)
