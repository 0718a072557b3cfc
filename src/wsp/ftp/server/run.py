"""One FTP process: `run()` serves until SIGTERM or SIGINT. Several of them share the port."""

import fcntl
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

# The first import of pyftpdlib has to be its loop: it silences what asyncore says about its own age.
from pyftpdlib import ioloop as _ioloop  # noqa: F401
from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.errors import StartupError
from wsp.ftp.server.authenticator import Authenticator
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.listener import Listener, listening_socket
from wsp.ftp.server.loop import Loop
from wsp.ftp.server.recount import Recounter
from wsp.ftp.server.reporter import UsageReporter
from wsp.ftp.server.shared import WorkerNumber
from wsp.ftp.server.tls import make_context
from wsp.heartbeat import Heartbeat
from wsp.homes import make_files_root
from wsp.settings import Settings

LOCK_MODE = 0o600
LAST_FIGURES_SECONDS = 1.0  # how long the end waits for what homes hold to be written
SIGN_OFF_SECONDS = 2.0  # how long the end waits for the heartbeat's last word

logger = logging.getLogger(__name__)


def run(settings: Settings, *, supervised: bool = False) -> None:
    """Serve FTP until SIGTERM or SIGINT, then end within 8 s. Main thread only.

    `supervised`: end as well when the process that started this one is gone. Raises StartupError.
    """
    # pyftpdlib's own lines are written at INFO and DEBUG, with what clients type in them.
    logging.getLogger("pyftpdlib").setLevel(logging.WARNING)
    _raise_descriptor_limit()
    context = make_context(settings)
    make_files_root(settings.files)
    with _claimed_port(settings) as sock:
        database = Database(settings.database)
        loop = Loop()
        try:
            usage = _Usage(settings, database)
            listener = Listener(sock, loop, settings, context, Authenticator(database, settings.files), usage.ledger)
            heartbeat = Heartbeat(
                database,
                "ftp",
                uuid4().hex,
                is_healthy=loop.is_turning,
                on_orphaned=(lambda: loop.call(stop)) if supervised else None,
            )
            sign_off = threading.Thread(target=heartbeat.stop, name="sign-off", daemon=True)

            def stop() -> None:
                if sign_off.ident is None:  # not started yet
                    sign_off.start()
                listener.stop()

            loop.catch_signals(stop)
            try:
                heartbeat.start()
            except SQLAlchemyError as error:
                raise StartupError(f"the database cannot be reached: {type(error).__name__}") from error
            usage.start()
            logger.info("FTP is served on %s port %d", settings.ftp_host, settings.ftp_port)
            loop.run()
            usage.stop()
            sign_off.join(SIGN_OFF_SECONDS)
        finally:
            loop.close()
            database.close()
    logger.info("FTP has ended")


class _Usage:
    """What homes hold: the ledger, the thread that counts homes, and the one that writes figures to the store."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Raises StartupError."""
        folder = settings.data_dir / "ftp-state"
        try:
            self.ledger = Ledger(folder, WorkerNumber(folder), settings.files, now=time.time())
            self._threads = (
                UsageReporter(self.ledger, database, folder),
                Recounter(self.ledger, database, folder, settings.files),
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise StartupError(
                f"WSP_DATA_DIR: cannot use {folder} ({why}); a folder that can be written is allowed"
            ) from None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Write the last figures. What does not end in time is made good by the next process that starts."""
        for thread in self._threads:
            thread.stop()
        deadline = time.monotonic() + LAST_FIGURES_SECONDS
        if all(thread.join(max(0.0, deadline - time.monotonic())) for thread in self._threads):
            self.ledger.end()


@contextmanager
def _claimed_port(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket, shared with the other workers of this server and with nobody else.

    SO_REUSEPORT alone would let a second server on the same port take half of the clients, unnoticed. So the first
    worker, which finds nobody holding `ftp.lock`, first binds the port for itself.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    starting = _open_lock(settings.data_dir / "ftp-start.lock")
    held = _open_lock(settings.data_dir / "ftp.lock")
    try:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if _is_alone(held):
            listening_socket(settings.ftp_host, settings.ftp_port, shared=False).close()
        fcntl.flock(held, fcntl.LOCK_SH)
        with listening_socket(settings.ftp_host, settings.ftp_port, shared=True) as sock:
            sock.listen()
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield sock
    finally:
        os.close(starting)
        os.close(held)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOCK_MODE)


def _is_alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _raise_descriptor_limit() -> None:
    """A session takes up to five descriptors; the usual soft limit of 1,024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
