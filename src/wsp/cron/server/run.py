"""The cron process: a scheduler, fed with changes, until it is told to stop."""

import asyncio
import logging
import os
import signal
import sys
import threading
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from wsp.changes import ChangeFeed, open_feed
from wsp.cron.notices.notifier import Notifier
from wsp.cron.server.scheduler import Scheduler
from wsp.database import Database
from wsp.errors import StartupError
from wsp.heartbeat import Heartbeat
from wsp.homes import closed_folder
from wsp.settings import Settings

FEED_SECONDS = 0.5  # how long the feed's thread waits at a time, and so how long stopping waits for it
FEED_RETRY_SECONDS = 1.0
SWITCH_SECONDS = 0.001

logger = logging.getLogger(__name__)


def run(settings: Settings, *, supervised: bool = False) -> None:
    """Run the cron service until SIGTERM or SIGINT. `supervised`: end when the parent process has died.

    Raises StartupError when it cannot start.
    """
    _require_pidfd()
    _check_account(settings)
    # Between the loop, which has commands to start, and threads that compute: Python's own 5 ms are late already.
    sys.setswitchinterval(SWITCH_SECONDS)
    # Inherited as "ignored", it would have the kernel throw away exit codes: sigaction(2).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    database = Database(settings.database)
    try:
        asyncio.run(_serve(settings, database, supervised=supervised))
    finally:
        database.close()


async def _serve(settings: Settings, database: Database, *, supervised: bool) -> None:
    loop = asyncio.get_running_loop()
    service_id = uuid4().hex
    scheduler = Scheduler(settings, database, service_id)
    notifier = Notifier(settings, database)
    closing: list[asyncio.Task[None]] = []

    def stop() -> None:
        scheduler.stop()
        if not closing:  # beside the stopping of commands: what is still to be mailed is sent by another process
            closing.append(loop.create_task(asyncio.to_thread(notifier.close)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def stop_from_thread() -> None:
        loop.call_soon_threadsafe(stop)

    heartbeat = Heartbeat(
        database,
        "cron",
        service_id,
        is_healthy=scheduler.is_healthy,
        on_orphaned=stop_from_thread if supervised else None,
    )
    try:
        feed = await asyncio.to_thread(open_feed, database)
        # Before the first job is armed: `next_run_at` is shown only while a scheduler is known to live.
        await asyncio.to_thread(heartbeat.start)
    except Exception as error:
        raise StartupError(f"cron: the database cannot be used: {_first_line(error)}") from error
    follower = _Follower(feed, loop, scheduler)
    follower.start()
    notifier.start()
    logger.info("cron is running, in time zone %s", settings.timezone)
    try:
        await scheduler.run()
    finally:
        stop()
        await asyncio.to_thread(heartbeat.stop)
        await asyncio.to_thread(follower.stop)
        await asyncio.gather(*closing)
        logger.info("cron has stopped")


class _Follower:
    """Follows the change feed on a thread, and wakes the scheduler on its loop."""

    def __init__(self, feed: ChangeFeed, loop: asyncio.AbstractEventLoop, scheduler: Scheduler) -> None:
        self._feed = feed
        self._loop = loop
        self._scheduler = scheduler
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="changes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=FEED_SECONDS * 2)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                changed = self._feed.wait(FEED_SECONDS)
            except Exception:  # without it, changes are noticed late; jobs run all the same
                logger.exception("the change feed failed")
                changed = not self._stop.wait(FEED_RETRY_SECONDS)
            if changed and not self._stop.is_set():
                self._loop.call_soon_threadsafe(self._scheduler.look_again)
        self._feed.close()


def _require_pidfd() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise StartupError("cron: Linux 5.3 or newer is needed (pidfd_open)") from error


def _check_account(settings: Settings) -> None:
    """Raise StartupError when commands cannot run as the account that they are to run as."""
    is_root = os.geteuid() == 0
    if settings.cron_run_as == "owner" and not is_root:
        raise StartupError(
            "WSP_CRON_RUN_AS: owner needs root, to become the system account of each job's owner; service is allowed"
        )
    if settings.cron_run_as == "owner" and (closed := closed_folder(settings.files)):
        logger.warning(
            "WSP_CRON_RUN_AS=owner: the accounts cannot enter %s, so their jobs find nothing below $HOME by its full "
            "path; have WSP_FILES_ROOT lie where all may pass (mode 0711)",
            closed,
        )
    if settings.cron_run_as == "service" and is_root:
        logger.warning(
            "the commands of all jobs run as root; WSP_CRON_RUN_AS=owner runs each as the system account of its owner"
        )


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().partition("\n")[0]
