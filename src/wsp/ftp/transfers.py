"""The records of an account's transfers."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from wsp.errors import Invalid
from wsp.ftp.records import Transfer
from wsp.ftp.sessions import known_since
from wsp.paging import Page, fetch, matching

WITHOUT_LIMIT = 10_000  # as many as one answer holds when no `limit` is given


@dataclass(frozen=True, slots=True)
class TransferPage(Page):
    """Which transfers are wanted: `since` is included, `until` is not."""

    direction: str = ""
    result: str = ""
    since: datetime | None = None
    until: datetime | None = None


def list_transfers(
    session: Session, visible_to: str | None, username: str, page: TransferPage
) -> tuple[list[Transfer], int]:
    """A part of an account's transfers, the newest first, and how many match in all.

    Raises NotFound; Invalid when they are too many for one answer and no `limit` is given.
    """
    query = select(Transfer).where(
        Transfer.username == username, Transfer.ended_at >= known_since(session, visible_to, username)
    )
    if page.direction:
        query = query.where(Transfer.direction == page.direction)
    if page.result:
        query = query.where(Transfer.result == page.result)
    if page.since is not None:
        query = query.where(Transfer.ended_at >= page.since)
    if page.until is not None:
        query = query.where(Transfer.ended_at < page.until)
    query = matching(query, page.search, [Transfer.path])
    if page.limit is None:
        some = session.scalar(select(func.count()).select_from(query.limit(WITHOUT_LIMIT + 1).subquery())) or 0
        if some > WITHOUT_LIMIT:
            raise Invalid(f"There are more than {WITHOUT_LIMIT} transfers: limit is needed", field="limit")
    return fetch(session, query.order_by(Transfer.id.desc()), page)
