"""Blocking work off the event loop: each area has threads of its own, so that none waits for another's trouble."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from wsp.database import Database

CLOSE_SECONDS = 0.2

T = TypeVar("T")

_turns: "WeakKeyDictionary[Database, threading.Lock]" = WeakKeyDictionary()


def _turn(database: Database) -> "threading.Lock | nullcontext[None]":
    """What a thread of this process holds while it writes. SQLite has one writer at a time, and those who wait for it
    there look again only every now and then: waiting here, they are woken up.
    """
    return _turns.setdefault(database, threading.Lock()) if database.is_sqlite else nullcontext()


class Offload:
    """A few threads that work on the database, or on anything else that blocks."""

    def __init__(self, database: Database, name: str, threads: int = 1) -> None:
        self._database = database
        self._turn = _turn(database)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._under_way: set[Future[Any]] = set()

    async def call(self, step: Callable[[], T]) -> T:
        """Do `step` on a thread."""
        future = self._pool.submit(step)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(future)

    async def read(self, step: Callable[[Session], T]) -> T:
        """Do `step` in a session for looking."""

        def reading() -> T:
            with self._database.reading() as session:
                return step(session)

        return await self.call(reading)

    async def change(self, step: Callable[[Session], T]) -> T:
        """Do `step` in a transaction. No other service acts upon what the scheduler writes: it is not announced."""

        def changing() -> T:
            with self._turn, self._database.transaction(announce=False) as session:
                return step(session)

        return await self.call(changing)

    async def close(self) -> None:
        """Take no more work, and give what is under way a moment to end, also what nobody awaits any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(wait, set(self._under_way), CLOSE_SECONDS)
