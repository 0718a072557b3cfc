"""Many rows in one statement. On PostgreSQL the columns travel as arrays: a parameter for each value of each row takes
the driver longer than the server needs for the rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Subquery, Table, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from wsp.cron.planning.rows import RUNS


def is_sqlite(session: Session) -> bool:
    """Which of the two stores is it?"""
    return session.get_bind().dialect.name == "sqlite"


def insert_runs(session: Session, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """Insert runs, but for those that have a row: there is one for each (job_id, scheduled_for).

    All name the same columns. Returns rows (id, job_id, scheduled_for) of those that were inserted.
    """
    returned = RUNS.c.id, RUNS.c.job_id, RUNS.c.scheduled_for
    place = [RUNS.c.job_id, RUNS.c.scheduled_for]
    if is_sqlite(session):
        one = sqlite.insert(RUNS).on_conflict_do_nothing(index_elements=place).returning(*returned)
        return session.execute(one, list(rows)).all()
    names = list(rows[0])
    many = postgresql.insert(RUNS).from_select(names, select(_arrays(RUNS, names)))
    columns = _columns(rows)
    return session.execute(many.on_conflict_do_nothing(index_elements=place).returning(*returned), columns).all()


def update_rows(
    session: Session, table: Table, rows: Sequence[Mapping[str, Any]], *where: ColumnElement[bool], by: Sequence[str]
) -> None:
    """Set columns of many rows, which name the same ones. The columns `by` say which row is meant, with `where`."""
    if not rows:
        return
    names = list(rows[0])
    changed = [name for name in names if name not in by]
    if is_sqlite(session):
        which = [table.c[name] == bindparam(f"of_{name}") for name in by]
        statement = update(table).where(*which, *where).values({name: bindparam(name) for name in changed})
        session.execute(
            statement, [{f"of_{name}" if name in by else name: row[name] for name in names} for row in rows]
        )
        return
    new = _arrays(table, names)
    which = [table.c[name] == new.c[name] for name in by]
    session.execute(update(table).where(*which, *where).values({name: new.c[name] for name in changed}), _columns(rows))


def _arrays(table: Table, names: Sequence[str]) -> Subquery:
    """Rows out of an array for each column, whose parameter has the column's name."""
    return select(
        *(func.unnest(bindparam(f"new_{name}", type_=ARRAY(table.c[name].type))).label(name) for name in names)
    ).subquery("new")


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {f"new_{name}": [row[name] for row in rows] for name in rows[0]}
