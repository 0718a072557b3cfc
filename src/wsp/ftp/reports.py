"""What an FTP process reports of its sessions and transfers, and how it is written into the store.

A process gathers a report in memory, and writes it in one transaction: never more often than once a second, and not at
all when nothing happened. While the store is away, reports are added to one another.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from wsp.counters import Counters, add_to_stored
from wsp.database import insert_into
from wsp.ftp.models import FtpAccount
from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.heartbeat import node_name
from wsp.webhooks.models import Webhook
from wsp.webhooks.service import emit

TRANSFERS_KEPT = 10_000  # of those that wait for the store; the oldest are given up
SESSIONS_KEPT = 10_000
REFUSALS_KEPT = 10_000
IDS_IN_QUERY = 500

Direction = Literal["upload", "append", "download"]


@dataclass(frozen=True, slots=True)
class EndedTransfer:
    """A transfer that is over, or was refused. `path` is absolute, as the client knows it."""

    username: str
    owner: str
    session_id: str
    address: str
    tls: bool
    direction: Direction
    path: str
    bytes: int
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    reason: str
    """Why it failed, in a sentence; empty when it is complete."""
    checksum: str
    ascii: bool
    anonymous: bool

    @property
    def completed(self) -> bool:
        return not self.reason


@dataclass(slots=True)
class EndedSession:
    """How a session of an account ended; `attempts` more than 1: that many refused logins of the same kind."""

    username: str
    owner: str
    session_id: str
    address: str
    client: str
    tls: str
    started_at: datetime
    ended_at: datetime
    ok: bool
    sentence: str
    uploads: int = 0
    downloads: int = 0
    failures: int = 0
    bytes_uploaded: int = 0
    bytes_downloaded: int = 0
    refusal: str = ""
    """Why the login was refused; empty when it was not."""
    attempts: int = 1

    def columns(self) -> dict[str, Any]:
        """What is stored of it."""
        return {column.name: getattr(self, column.name) for column in LastSession.__table__.columns}


@dataclass(slots=True)
class Report:
    """What has happened since the last one."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The sessions that began or changed, by id: columns of `SessionRow`."""
    gone: set[str] = field(default_factory=set)
    """The ids of sessions that are over, and whose rows are."""
    transfers: list[EndedTransfer] = field(default_factory=list)
    sessions: list[EndedSession] = field(default_factory=list)
    refusals: dict[tuple[str, str, str], EndedSession] = field(default_factory=dict)
    """Refused logins, by account, address and reason: nobody is to fill the store with guesses."""
    lost: int = 0
    """Transfers that were given up because too many waited."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone or self.transfers or self.sessions or self.refusals)

    def put_row(self, session_id: str, row: dict[str, Any]) -> None:
        """A session is what the row says."""
        self.gone.discard(session_id)
        self.rows[session_id] = row

    def end_row(self, session_id: str) -> None:
        """A session is over: its row goes."""
        self.rows.pop(session_id, None)
        self.gone.add(session_id)

    def add_refusal(self, refused: EndedSession) -> None:
        """A login was refused. Many of one kind are one, with their number."""
        key = (refused.username, refused.address, refused.refusal)
        known = self.refusals.get(key)
        if known is not None:
            known.attempts += refused.attempts
            known.ended_at = refused.ended_at
        elif len(self.refusals) < REFUSALS_KEPT:
            self.refusals[key] = refused

    def add(self, later: "Report") -> None:
        """Put a later report behind this one."""
        for session_id, row in later.rows.items():
            self.put_row(session_id, row)
        for session_id in later.gone:
            self.end_row(session_id)
        self.transfers += later.transfers
        excess = len(self.transfers) - TRANSFERS_KEPT
        if excess > 0:
            del self.transfers[:excess]
            self.lost += excess
        self.sessions += later.sessions
        del self.sessions[:-SESSIONS_KEPT]
        for refused in later.refusals.values():
            self.add_refusal(refused)


def write(session: Session, report: Report, *, keep_transfers: bool) -> bool:
    """Write a report in the caller's transaction. True: a webhook wants to know of something in it."""
    if report.rows:
        _upsert(session, SessionRow.__table__, "id", [report.rows[name] for name in sorted(report.rows)])
    for ids in _chunks(sorted(report.gone)):
        session.execute(delete(SessionRow).where(SessionRow.id.in_(ids)))
    if keep_transfers and report.transfers:
        session.execute(insert(Transfer), [_transfer_columns(transfer) for transfer in report.transfers])
    _write_last_sessions(session, [*report.sessions, *report.refusals.values()])
    if report.transfers or report.refusals:
        add_to_stored(session, node_name(), _counted(report))
    return _tell_webhooks(session, report)


def _counted(report: Report) -> dict[tuple[str, str], float]:
    """What the report adds to the counters."""
    counters = Counters()
    for transfer in report.transfers:
        result = "completed" if transfer.completed else "failed"
        counters.add("ftp_transfers_total", direction=transfer.direction, result=result)
        counters.add("ftp_transfer_bytes_total", transfer.bytes, direction=transfer.direction)
    for refused in report.refusals.values():
        counters.add("ftp_logins_refused_total", refused.attempts)
    return counters.take()


def _transfer_columns(transfer: EndedTransfer) -> dict[str, Any]:
    names = (column.name for column in Transfer.__table__.columns if column.name not in ("id", "result"))
    result = "completed" if transfer.completed else "failed"
    return {"result": result, **{name: getattr(transfer, name) for name in names}}


def _write_last_sessions(session: Session, ended: list[EndedSession]) -> None:
    names = sorted({one.username for one in ended})
    former: dict[str, Any] = {}
    for chunk in _chunks(names):
        rows = session.scalars(select(LastSession).where(LastSession.username.in_(chunk)))
        former.update((row.username, row) for row in rows)
    newest: dict[str, EndedSession] = {}
    for one in sorted(ended, key=lambda one: one.ended_at):
        shown = newest.get(one.username) or former.get(one.username)
        if shown is None or _replaces(one, shown):
            newest[one.username] = one
    accounts = {name for name in newest if "@" not in name}
    for chunk in _chunks(sorted(accounts)):
        accounts.difference_update(session.scalars(select(FtpAccount.username).where(FtpAccount.username.in_(chunk))))
    for deleted in accounts:  # what is remembered of an account goes with it
        del newest[deleted]
    if newest:
        _upsert(session, LastSession.__table__, "username", [newest[name].columns() for name in sorted(newest)])


def _replaces(ended: EndedSession, shown: EndedSession | LastSession) -> bool:
    """Is this the one to tell of? Clients work over several connections: while one of them fails, the others may go on
    and end well, and that must not hide the failure."""
    if ended.ended_at < shown.ended_at:
        return False
    return shown.ok or not ended.ok or ended.started_at >= shown.ended_at


def _tell_webhooks(session: Session, report: Report) -> bool:
    uploads = [transfer for transfer in report.transfers if transfer.direction != "download"]
    refusals = list(report.refusals.values())
    owners = {upload.owner for upload in uploads} | {refused.owner for refused in refusals}
    told, listening = 0, _owners_with_webhooks(session, owners)
    for transfer in uploads:
        if transfer.owner in listening:
            event = "upload.completed" if transfer.completed else "upload.failed"
            told += emit(session, transfer.owner, event, _upload_data(transfer))
    for refused in refusals:
        if refused.owner in listening:
            data = {
                "username": refused.username,
                "address": refused.address,
                "reason": refused.refusal,
                "attempts": refused.attempts,
            }
            told += emit(session, refused.owner, "login.failed", data)
    return told > 0


def _owners_with_webhooks(session: Session, owners: set[str]) -> set[str]:
    """Those of the owners that may want to know: asked once, not for each of a thousand small uploads."""
    found: set[str] = set()
    for chunk in _chunks(sorted(owners)):
        found.update(session.scalars(select(Webhook.owner).where(Webhook.owner.in_(chunk), Webhook.enabled)))
    return found


def _upload_data(transfer: EndedTransfer) -> dict[str, Any]:
    data = {
        "username": transfer.username,
        "path": transfer.path,
        "direction": transfer.direction,
        "bytes": transfer.bytes,
        "duration_ms": transfer.duration_ms,
        "address": transfer.address,
        "tls": transfer.tls,
        "session_id": transfer.session_id,
    }
    return data | ({"checksum": transfer.checksum} if transfer.completed else {"reason": transfer.reason})


def _upsert(session: Session, table: Any, key: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows that all have the same columns, or set these columns where the key is there already."""
    statement = insert_into(session, table)
    changed = {name: statement.excluded[name] for name in rows[0] if name != key}
    session.execute(statement.on_conflict_do_update(index_elements=[key], set_=changed), rows)


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(ids)
    while chunk := list(islice(waiting, IDS_IN_QUERY)):
        yield chunk
