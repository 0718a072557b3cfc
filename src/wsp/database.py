"""The store: one engine per process, short transactions, UTC times. SQLite and PostgreSQL are both first class."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, DateTime, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

T = TypeVar("T")

SQLITE_BUSY_TIMEOUT_SECONDS = 10
SQLITE_RETRY_SECONDS = 0.01
POOL_SIZE = 5
POOL_OVERFLOW = 40  # as many as uvicorn's worker threads may want at once

NOTIFY_CHANNEL = "wsp_changes"

_READ_ONLY = "wsp_read_only"


def utc_now() -> datetime:
    """The present instant, aware, in UTC, with microseconds."""
    return datetime.now(UTC)


def insert_into(session: Session, table: Any) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that takes `on_conflict_do_…`: both stores have it, and SQLAlchemy spells it once for each."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return insert(table)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. Takes and gives aware datetimes; both stores hold UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        # In one call what SQLAlchemy does in four: lists and the scheduler read many instants.
        return _read_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _in_utc(value)


def _read_text(value: str | None) -> datetime | None:
    return None if value is None else _in_utc(datetime.fromisoformat(value))


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The parent of every table. Constraints have names, so that migrations can change them on both stores."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute


class Database:
    """The engine of this process, and the two kinds of transaction on it."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = _make_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # Each statement reads for itself: closing the session costs no round trip then, and an event loop may do it.
        reading: dict[str, Any] = {_READ_ONLY: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._read_engine = self.engine.execution_options(**reading)
        self._kept = threading.local()

    @contextmanager
    def transaction(self, *, announce: bool = True) -> Iterator[Session]:
        """A session that commits when the block ends, and rolls back when it raises.

        It begins at the first statement: on SQLite with `BEGIN IMMEDIATE`, so a writer waits at its start
        rather than failing at its end. `announce=False` keeps a commit that no other service acts upon
        (a heartbeat) off PostgreSQL's change feed.
        """
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            if announce and session.in_transaction():
                self.announce(session)
            session.commit()

    def announce(self, session: Session) -> None:
        """Wake the followers of the change feed at the commit of this transaction. On SQLite every commit does."""
        if not self.is_sqlite:
            session.execute(text(f"NOTIFY {NOTIFY_CHANNEL}"))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for looking only: it never takes the write lock and never commits.

        Two statements may see two states of the store: what must fit together is asked for in one.
        """
        with Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    def look(self, question: Callable[[Connection], T]) -> T:
        """The answer to a question that only reads, on a connection that this thread keeps.

        For what is asked all the time: what a session costs, and getting a connection from the pool and giving it
        back, is more than what a short question costs. Raises SQLAlchemyError.
        """
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            try:
                return question(kept)
            except SQLAlchemyError as error:
                self._kept.connection = None
                kept.close()
                # The store went away since the last question, and may be back.
                if not isinstance(error, DBAPIError) or not error.connection_invalidated:
                    raise
        connection = self._read_engine.connect()
        try:
            answer = question(connection)
        except BaseException:
            connection.close()
            raise
        self._kept.connection = connection
        return answer

    def close(self) -> None:
        """Give every pooled connection back to the operating system, and the one that this thread has kept."""
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            kept.close()
            self._kept.connection = None
        self.engine.dispose()


def _make_engine(url: str) -> Engine:
    parsed = make_url(url)
    options: dict[str, Any] = {
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "json_serializer": _compact_json,
    }
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, **options)
    engine = create_engine(
        parsed, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}, **options
    )
    if parsed.database and not parsed.database.startswith("file:"):
        event.listen(engine, "do_connect", partial(_make_file, Path(parsed.database)))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_file(path: Path, *_connecting: object) -> None:
    """Make the file and its folder if missing, the file for our eyes alone: hashes of passwords and keys come into it.

    SQLite would make it with the umask's mode. It gives the files beside it (-wal, -shm) the mode of this one.
    """
    # Trouble is left to SQLite, which meets it again and says so. A file that is there is not even opened:
    # closing it would end the locks that SQLite holds on it in this process.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # The driver's own transaction handling begins too late and commits too early; `_begin_sqlite` begins instead.
    connection.isolation_level = None
    # SQLite's own knows ASCII alone; a search is to ignore the case of every alphabet.
    connection.create_function("lower", 1, _lower, deterministic=True)
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _lower(value: object) -> str | None:
    return None if value is None else str(value).lower()


def _switch_to_wal(cursor: DBAPICursor) -> None:
    # SQLite's busy timeout does not cover this switch: two processes that open a new file at once collide.
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(SQLITE_RETRY_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get(_READ_ONLY, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
