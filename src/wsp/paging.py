"""Lists: which part of them is asked for, and how it is fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is wanted. Without `limit` it is everything from `offset` on."""

    limit: int | None = None
    offset: int = 0
    search: str = ""
    domain: str = ""
    owner: str = ""


def matching(query: S, search: str, columns: Sequence[InstrumentedAttribute[Any]]) -> S:
    """The rows that have the text in one of the columns, in any case. An empty text matches all."""
    if not search:
        return query
    return query.where(or_(*(column.icontains(search, autoescape=True) for column in columns)))


def fetch(session: Session, query: Select[T], page: Page) -> tuple[list[T], int]:
    """The objects of the page, and how many there are in all."""
    rows, total = fetch_rows(session, query, page)
    return [row[0] for row in rows], total


def fetch_rows(session: Session, query: Select[*tuple[Any, ...]], page: Page) -> tuple[list[Row[Any]], int]:
    """The rows of the page, and how many there are in all."""
    if page.limit is None and page.offset == 0:
        rows = list(session.execute(query))
        return rows, len(rows)
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    return list(session.execute(query.limit(page.limit).offset(page.offset))), total
