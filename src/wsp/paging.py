"""Lists: which part of them is asked for, and how it is fetched."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Column, Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


PIECE_ROWS = 500


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
    if page.limit is None and page.offset == 0:
        found = list(session.scalars(query))
        return found, len(found)
    return list(session.scalars(query.limit(page.limit).offset(page.offset))), _count(session, query)


class Shape:
    """Columns that a list shows, and what their rows become: attributes of SQLAlchemy's rows cost ten times as much."""

    def __init__(self, columns: Iterable[Column[Any]]) -> None:
        self.columns = tuple(columns)
        names = [column.name for column in self.columns]
        self.make: Callable[[Iterable[Any]], Any] = namedtuple("ListedRow", names)._make  # type: ignore[attr-defined]


class Pieces:
    """The rows of a page, some at a time, in the order of a column that is unique and never changes.

    Each piece is a question of its own, which goes on behind the last row: a list of any length costs the memory of a
    piece, and nothing in the store waits for its end. A row that is there all the time comes once.
    """

    def __init__(
        self,
        session: Session,
        shape: Shape,
        query: Select[*tuple[Any, ...]],
        key: InstrumentedAttribute[Any],
        page: Page,
    ) -> None:
        """`query` selects the columns of `shape`, of which `key` is one."""
        self._session = session
        self._make = shape.make
        self._query = query
        self._key = key
        self._page = page
        self._is_complete = page.limit is None and page.offset == 0
        self.total = 0 if self._is_complete else _count(session, query)
        """How many match in all. Of a complete list it is known at its end: as many as have come."""

    def __iter__(self) -> Iterator[Sequence[Any]]:
        left, query = self._page.limit, self._query.order_by(self._key).offset(self._page.offset or None)
        while left is None or left > 0:
            wanted = PIECE_ROWS if left is None else min(PIECE_ROWS, left)
            # Not the session's own `execute`, which looks at every row for objects.
            rows = list(map(self._make, self._session.connection().execute(query.limit(wanted)).all()))
            if self._is_complete:
                self.total += len(rows)
            if rows:
                yield rows
            if len(rows) < wanted:
                return
            left = None if left is None else left - len(rows)
            query = self._query.where(self._key > getattr(rows[-1], self._key.key)).order_by(self._key)


class Chosen:
    """Rows of which the keys are known, some at a time, in the order of the keys.

    For lists that no index has in their order, and no unchanging one: a single question decides what is in them, and a
    number a row is all that memory holds of it. A row that was removed since is left out.
    """

    def __init__(
        self,
        session: Session,
        shape: Shape,
        key: InstrumentedAttribute[int],
        keys: Sequence[int],
        *,
        at_once: int | None = None,
    ) -> None:
        """`key` is a column of `shape`. `at_once`: how many rows are read together; fewer where rows are large."""
        self._session = session
        self._make = shape.make
        self._query = select(*shape.columns)
        self._key = key
        self._keys = keys
        self._at_once = at_once

    def __iter__(self) -> Iterator[Sequence[Any]]:
        size = self._at_once or PIECE_ROWS
        for start in range(0, len(self._keys), size):
            keys = self._keys[start : start + size]
            rows = self._session.connection().execute(self._query.where(self._key.in_(keys))).all()
            found = {getattr(row, self._key.key): row for row in map(self._make, rows)}
            yield [found[key] for key in keys if key in found]


def _count(session: Session, query: Select[*tuple[Any, ...]]) -> int:
    return session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
