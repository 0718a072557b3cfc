"""What webhooks are told of FTP accounts."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from wsp.ftp.models import FtpAccount
from wsp.webhooks.service import emit

_WITHHELD = ("id", "password_hash", "credential_version")
_COLUMNS = [column.name for column in FtpAccount.__table__.columns if column.name not in _WITHHELD]


def announce_account(session: Session, account: FtpAccount, event: str, **more: Any) -> None:
    """Tell of an account as it is now, without its secrets. Times are in UTC."""
    emit(session, account.owner, event, {name: _plain(getattr(account, name)) for name in _COLUMNS} | more)


def announce_changes(session: Session, account: FtpAccount, changed: Collection[str]) -> None:
    """Tell that the named columns were given other values: of `enabled` by its own event, of all others by one."""
    if "enabled" in changed:
        announce_account(session, account, "account.enabled" if account.enabled else "account.disabled")
    names = sorted("password" if name == "password_hash" else name for name in changed if name != "enabled")
    if names:
        announce_account(session, account, "account.updated", changed=names)


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
