"""One FTP process: `run()` serves until SIGTERM or SIGINT. Several of them share the port."""

import fcntl
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

# The first import of pyftpdlib has to be its loop: it silences what asyncore says about its own age.
from pyftpdlib import ioloop as _ioloop  # noqa: F401
from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.errors import StartupError
from wsp.ftp.ownership import find_owner
from wsp.ftp.server.acceptor import listening_socket
from wsp.ftp.server.authenticator import Authenticator
from wsp.ftp.server.certificate_watch import CertificateWatch
from wsp.ftp.server.listener import Listener
from wsp.ftp.server.loop import Loop
from wsp.ftp.server.pace import Paces
from wsp.ftp.server.shared import STATE_FOLDER
from wsp.ftp.server.tls import Certificates
from wsp.heartbeat import Heartbeat
from wsp.homes import make_files_root
from wsp.settings import Settings

LOCK_MODE = 0o600
SIGN_OFF_SECONDS = 2.0  # how long the end waits for the heartbeat's last word

logger = logging.getLogger(__name__)


def run(settings: Settings, *, supervised: bool = False) -> None:
    """Serve FTP until SIGTERM or SIGINT, then end within 8 s. Main thread only.

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
        database = Database(settings.database)
        loop = Loop()
        watch = CertificateWatch(certificates)
        try:
            authenticator = Authenticator(database, settings.files, owner)
            listener = Listener(sock, loop, settings, certificates, authenticator, paces, implicit=implicit)
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

            loop.catch_signals(stop, on_hangup=watch.look_now)
            watch.start()
            try:
                heartbeat.start()
            except SQLAlchemyError as error:
                raise StartupError(f"the database cannot be reached: {type(error).__name__}") from error
            ports = " and ".join(str(port) for port in _ports(settings).values())
            logger.info("FTP is served on %s port %s", settings.ftp_host, ports)
            loop.run()
            sign_off.join(SIGN_OFF_SECONDS)
        finally:
            watch.stop()
            loop.close()
            database.close()
    logger.info("FTP has ended")


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
