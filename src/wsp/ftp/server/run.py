"""One FTP process: `run()` serves until SIGTERM or SIGINT. Several of them share the port."""

import fcntl
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

# The first import of pyftpdlib has to be its loop: it silences what asyncore says about its own age.
from pyftpdlib import ioloop as _ioloop  # noqa: F401
from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.errors import StartupError
from wsp.ftp.admission import Policy
from wsp.ftp.guests import BanRules
from wsp.ftp.ownership import find_owner
from wsp.ftp.server.acceptor import listening_socket
from wsp.ftp.server.authenticator import Authenticator
from wsp.ftp.server.bans import Bans
from wsp.ftp.server.certificate_watch import CertificateWatch
from wsp.ftp.server.follower import Follower
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.listener import Listener
from wsp.ftp.server.loop import Loop
from wsp.ftp.server.pace import Paces
from wsp.ftp.server.recount import Recounter
from wsp.ftp.server.reporter import Reporter
from wsp.ftp.server.scorer import Scorer
from wsp.ftp.server.seats import Seats
from wsp.ftp.server.shared import STATE_FOLDER, WorkerNumber
from wsp.ftp.server.tls import Certificates
from wsp.ftp.server.usage_reporter import UsageReporter
from wsp.ftp.server.xferlog import Xferlog
from wsp.heartbeat import Heartbeat
from wsp.homes import make_files_root
from wsp.settings import Settings

LOCK_MODE = 0o600
LAST_CHECKSUM_SECONDS = 1.0  # how long the end waits for the checksums of uploads that have ended
LAST_FIGURES_SECONDS = 1.0  # how long it waits for what homes hold to be written
LAST_WORD_SECONDS = 1.5  # how long the end waits for each of the others

logger = logging.getLogger(__name__)


def run(settings: Settings, *, supervised: bool = False) -> None:
    """Serve FTP until SIGTERM or SIGINT, then end within WSP_FTP_DRAIN_SECONDS and 3 s. Main thread only.

    `supervised`: end as well when the process that started this one is gone. Raises StartupError.
    """
    # pyftpdlib's own lines are written at INFO and DEBUG, with what clients type in them.
    logging.getLogger("pyftpdlib").setLevel(logging.WARNING)
    _raise_descriptor_limit()
    certificates = Certificates(settings)
    owner = find_owner(settings.ftp_file_owner)
    make_files_root(settings.files)
    with _claimed_ports(settings) as (sock, implicit), closing(_paces(settings)) as paces:
        if settings.ftp_umask is not None:
            os.umask(int(settings.ftp_umask, 8))
        worker, seats = _seats(settings)
        database = Database(settings.database)
        loop = Loop()
        watch = CertificateWatch(certificates)
        try:
            bans = Bans(settings.ftp_ban_exempt)
            rules = BanRules(settings.ftp_ban_failures, settings.ftp_ban_seconds)
            scorer = Scorer(database, bans, rules, lambda: loop.call(listener.turn_out_the_banned))
            authenticator = Authenticator(database, settings.files, Policy.of(settings), scorer, owner)
            service_id = uuid4().hex
            xferlog = Xferlog(settings.ftp_xferlog, settings.zone) if settings.ftp_xferlog is not None else None
            reporter = Reporter(database, loop, service_id, keep_days=settings.ftp_keep_transfers_days, xferlog=xferlog)
            usage = _Usage(settings, database, worker)
            listener = Listener(
                sock,
                loop,
                settings,
                certificates,
                authenticator,
                bans,
                seats,
                reporter,
                lambda: accounts.look_again(),
                usage.ledger,
                paces,
                implicit=implicit,
            )
            accounts = Follower(database, loop, service_id, listener, bans)
            heartbeat = Heartbeat(
                database,
                "ftp",
                service_id,
                is_healthy=loop.is_turning,
                on_orphaned=(lambda: loop.call(stop)) if supervised else None,
            )
            drain = threading.Thread(target=heartbeat.drain, name="drain", daemon=True)
            sign_off = threading.Thread(target=heartbeat.stop, name="sign-off", daemon=True)

            def stop() -> None:
                if drain.ident is None:  # not started yet
                    drain.start()
                listener.stop()

            def hang_up() -> None:
                watch.look_now()
                accounts.look_again()

            loop.catch_signals(stop, on_hangup=hang_up)
            watch.start()
            try:
                heartbeat.start()
                accounts.start()
            except SQLAlchemyError as error:
                raise StartupError(f"the database cannot be reached: {type(error).__name__}") from error
            listener.leftovers.start()
            scorer.start()
            reporter.start()
            usage.start()
            ports = " and ".join(str(port) for port in _ports(settings).values())
            logger.info("FTP is served on %s port %s", settings.ftp_host, ports)
            loop.run()
            # The database may be away: neither the last report nor the heartbeat's last word is waited for for long.
            sign_off.start()
            accounts.stop()
            listener.checksums.finish(LAST_CHECKSUM_SECONDS)
            loop.drain()
            usage.stop()
            reporter.stop(LAST_WORD_SECONDS)
            sign_off.join(LAST_WORD_SECONDS)
        finally:
            watch.stop()
            loop.close()
            database.close()
            seats.close()
            worker.release()
    logger.info("FTP has ended")


def _seats(settings: Settings) -> tuple[WorkerNumber, Seats]:
    folder = settings.data_dir / STATE_FOLDER
    try:
        worker = WorkerNumber(folder)
        return worker, Seats(folder, worker, settings.ftp_max_sessions)
    except OSError as error:
        raise StartupError(
            f"cannot keep count of FTP sessions in {folder} ({error.strerror or error}); "
            "a writable WSP_DATA_DIR is needed"
        ) from None


class _Usage:
    """What homes hold: the ledger, the thread that counts homes, and the one that writes figures to the store."""

    def __init__(self, settings: Settings, database: Database, worker: WorkerNumber) -> None:
        """Raises StartupError."""
        folder = settings.data_dir / STATE_FOLDER
        try:
            self.ledger = Ledger(folder, worker, settings.files, now=time.time())
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
def _claimed_ports(settings: Settings) -> Iterator[tuple[socket.socket, socket.socket | None]]:
    """The listening sockets, shared with the other workers of this server and with nobody else: FTP, and implicit TLS.

    SO_REUSEPORT alone would let a second server on the same port take half of the clients, unnoticed. So the first
    worker, which finds nobody holding `ftp.lock`, first binds each port for itself.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    starting = _open_lock(settings.data_dir / "ftp-start.lock")
    held = _open_lock(settings.data_dir / "ftp.lock")
    try:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if _is_alone(held):
            for setting, port in _ports(settings).items():
                listening_socket(settings.ftp_host, port, shared=False, setting=setting).close()
        fcntl.flock(held, fcntl.LOCK_SH)
        with ExitStack() as stack:
            sockets = []
            for setting, port in _ports(settings).items():
                sockets.append(listening_socket(settings.ftp_host, port, shared=True, setting=setting))
                stack.enter_context(sockets[-1]).listen()
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield sockets[0], sockets[1] if len(sockets) > 1 else None
    finally:
        os.close(starting)
        os.close(held)


def _paces(settings: Settings) -> Paces:
    folder = settings.data_dir / STATE_FOLDER
    try:
        return Paces(folder)
    except OSError as error:
        raise StartupError(
            f"WSP_DATA_DIR: cannot keep what FTP processes share in {folder} ({error.strerror})"
        ) from None


def _ports(settings: Settings) -> dict[str, int]:
    """What to listen on, by setting: the FTP port first."""
    ports = {"WSP_FTP_PORT": settings.ftp_port}
    if settings.ftp_implicit_tls_port is not None:
        ports["WSP_FTP_IMPLICIT_TLS_PORT"] = settings.ftp_implicit_tls_port
    return ports


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
