"""Who looks at a run while it goes on is told what happens to it.

However many look on, the database is asked once for all of them, and only when something was committed.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from wsp.cron.models import RUNNING, JobRun
from wsp.cron.runner.spool import run_folder
from wsp.database import Database
from wsp.version import StoreVersion

LOOK_SECONDS = 0.2
PAUSE_SECONDS = 2.0  # after a look that failed, as when the database is away
THREADS = 2  # of their own: those of the API's requests are not for waiting
GONE = ""
"""The status of a run that has no row any more."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _Run:
    """A run that is watched, as of the last look."""

    def __init__(self) -> None:
        self.status: str | None = None
        self.written: tuple[str, int] | None = None
        self.watchers: set[asyncio.Event] = set()

    def tell(self) -> None:
        for news in self.watchers:
            news.set()


class Watcher:
    """One who looks at a run."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.news = asyncio.Event()
        """Set when something has changed, and when nothing more will be told."""

    @property
    def status(self) -> str | None:
        """The status of the run as of the last look, GONE for one that is gone; None: not looked yet."""
        return self._run.status


class Watching:
    """Follows the runs that somebody looks at. Lives on the event loop; does its looking on threads."""

    def __init__(self, database: Database, version: StoreVersion, folder: Path, ending: asyncio.Event) -> None:
        """`folder` is that of the outputs of runs. Nothing more is told once `ending` is set."""
        self.folder = folder
        self.ending = ending
        self._database = database
        self._version = version
        self._as_of = -1
        self._runs: dict[int, _Run] = {}
        self._task: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="watching")

    async def close(self) -> None:
        """Stop looking."""
        self.ending.set()
        if self._task is not None:
            await self._task
        self._threads.shutdown()

    @contextmanager
    def watch(self, run_id: int) -> Iterator[Watcher]:
        """A watcher of a run, for as long as the block lasts."""
        run = self._runs.setdefault(run_id, _Run())
        watcher = Watcher(run)
        run.watchers.add(watcher.news)
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        try:
            yield watcher
        finally:
            run.watchers.discard(watcher.news)
            if not run.watchers:
                self._runs.pop(run_id, None)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """The answer of something that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _follow(self) -> None:
        try:
            while self._runs and not self.ending.is_set():
                pause = LOOK_SECONDS
                try:
                    await self._look()
                except Exception:
                    logger.exception("could not look at the runs that are watched")
                    pause = PAUSE_SECONDS
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.ending.wait()
        finally:
            self._task = None
            for run in self._runs.values():
                run.tell()

    async def _look(self) -> None:
        """Look at everything that is watched, and tell those whom it concerns what has changed."""
        runs = dict(self._runs)
        version = self._version.current()  # before the look: what is seen then is at least as new
        if version != self._as_of or any(run.status is None for run in runs.values()):
            statuses = await self.on_thread(lambda: self._statuses(list(runs)))
            self._as_of = version
            for run_id, run in runs.items():
                if run.status != (status := statuses.get(run_id, GONE)):
                    run.status = status
                    run.tell()
        going_on = [run_id for run_id, run in runs.items() if run.status == RUNNING]
        written = await self.on_thread(lambda: {run_id: _newest_file(self.folder, run_id) for run_id in going_on})
        for run_id, newest in written.items():
            if runs[run_id].written != newest:
                runs[run_id].written = newest
                runs[run_id].tell()

    def _statuses(self, run_ids: list[int]) -> Mapping[int, str]:
        with self._database.reading() as session:
            return dict(session.execute(select(JobRun.id, JobRun.status).where(JobRun.id.in_(run_ids))).all())


def _newest_file(folder: Path, run_id: int) -> tuple[str, int] | None:
    """The name and the size of the newest file of a run's output."""
    path = run_folder(folder, run_id)
    try:
        newest = max(os.listdir(path), default=None)
        return None if newest is None else (newest, os.stat(os.path.join(path, newest)).st_size)
    except OSError:  # there is none yet, or any more
        return None
