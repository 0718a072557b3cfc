"""Live sessions, and how an account's last one went. `visible_to` is the only owner whose sessions exist; None: all."""

from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.errors import NotFound
from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.ftp.records import LastSession, SessionRow
from wsp.ftp.sizes import size_text
from wsp.heartbeat import STALE_SECONDS, ServiceRow
from wsp.paging import Page, fetch, matching

ANONYMOUS_AT = "anonymous@"

_DOING = {"upload": "uploading", "append": "appending to", "download": "downloading"}


def list_sessions(
    session: Session, visible_to: str | None, page: Page, *, now: datetime
) -> tuple[list[SessionRow], int]:
    """A part of the live sessions, the newest first, and how many match in all. Those of dead processes are none."""
    query = matching(_live(visible_to, now), page.search, [SessionRow.username, SessionRow.address, SessionRow.client])
    if page.owner:
        query = query.where(SessionRow.owner == page.owner)
    if page.domain:
        query = query.outerjoin(FtpAccount, FtpAccount.username == SessionRow.username).where(
            (FtpAccount.domain == page.domain) | (SessionRow.username == ANONYMOUS_AT + page.domain)
        )
    return fetch(session, query.order_by(SessionRow.started_at.desc(), SessionRow.id), page)


def end_session(session: Session, visible_to: str | None, session_id: str, *, now: datetime) -> None:
    """Have a live session end. Its process does it, within a second. Raises NotFound."""
    row = session.scalar(_live(visible_to, now).where(SessionRow.id == session_id))
    if row is None:
        raise NotFound("FTP session not found")
    row.end_requested = True
    session.flush()
    epochs.move(session, "ftp")


def known_since(session: Session, visible_to: str | None, username: str) -> datetime:
    """When the account, or the anonymous access `anonymous@<domain>`, was made: what is older was a namesake's.

    Raises NotFound.
    """
    if username.startswith(ANONYMOUS_AT):
        query = select(AnonymousAccess.created_at, AnonymousAccess.owner).where(
            AnonymousAccess.domain == username.removeprefix(ANONYMOUS_AT)
        )
    else:
        query = select(FtpAccount.created_at, FtpAccount.owner).where(FtpAccount.username == username)
    row = session.execute(query).one_or_none()
    if row is None or visible_to not in (None, row.owner):
        raise NotFound("FTP account not found")
    made: datetime = row.created_at
    return made


def last_session(session: Session, visible_to: str | None, username: str, *, now: datetime) -> SessionRow | LastSession:
    """The account's session that began last: one that goes on, or one that is over, be it a refused login.

    Raises NotFound, also when there never was one.
    """
    since = known_since(session, visible_to, username)
    live = session.scalar(
        _live(None, now)
        .where(SessionRow.username == username)
        .order_by(SessionRow.started_at.desc(), SessionRow.id)
        .limit(1)
    )
    ended = session.get(LastSession, username)
    if ended is not None and ended.ended_at < since:
        ended = None
    if live is not None and (ended is None or live.started_at >= ended.started_at):
        return live
    if ended is None:
        raise NotFound("There was no session of this FTP account yet")
    return ended


def going_on(row: SessionRow) -> str:
    """What there is to say of a session that is not over."""
    doing = (
        f"The session is still going on, {_DOING[row.direction]} {row.path} ({size_text(row.transferred)} so far)."
        if row.direction
        else "The session is still going on."
    )
    return f"{doing} {row.sentence}".rstrip()


def _live(visible_to: str | None, now: datetime) -> Select[SessionRow]:
    heard = now - timedelta(seconds=STALE_SECONDS)
    query = (
        select(SessionRow)
        .join(ServiceRow, ServiceRow.id == SessionRow.service_id)
        .where(ServiceRow.heartbeat_at > heard)
    )
    return query if visible_to is None else query.where(SessionRow.owner == visible_to)
