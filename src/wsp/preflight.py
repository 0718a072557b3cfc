"""What must hold before the server starts: its data folder is its own, its ports are free."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from wsp.errors import StartupError
from wsp.settings import Settings

LOCK_FILE = "wsp.lock"
DATA_DIR_MODE = 0o700  # hashes, keys and certificates lie in it
CRASH_WAIT_SECONDS = 5.0  # how long children of a killed server may take to notice and to let go of their ports
RETRY_SECONDS = 0.1


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder if missing, for our eyes alone. Raises StartupError."""
    try:
        if not data_dir.is_dir():
            data_dir.parent.mkdir(parents=True, exist_ok=True)
            data_dir.mkdir(mode=DATA_DIR_MODE)
    except OSError as error:
        raise _unusable(data_dir, error) from None


def _unusable(data_dir: Path, error: OSError) -> StartupError:
    return StartupError(
        f"WSP_DATA_DIR: cannot use {data_dir} ({error.strerror}); a folder that can be written is allowed"
    )


@contextmanager
def data_dir_held(data_dir: Path) -> Iterator[bool]:
    """Make the data folder if missing and hold it against a second server.

    Yields whether the server before this one ended without a word (its pid is still in the lock file).
    Raises StartupError when the folder is held by another, or cannot be used.
    """
    make_data_dir(data_dir)
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from None
    with os.fdopen(descriptor, "r+") as lock:
        before = lock.read().strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"{data_dir.absolute()} is in use by another server (pid {before or 'unknown'}); "
                "stop it, or name another folder with WSP_DATA_DIR"
            ) from None
        _write_pid(lock.fileno(), str(os.getpid()))
        try:
            yield bool(before)
        finally:
            _write_pid(lock.fileno(), "")


def _write_pid(descriptor: int, pid: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, pid.encode(), 0)


def check_ports(settings: Settings, *, after_crash: bool = False) -> None:
    """Raise StartupError, naming port and setting, when a port of ours is not to be had.

    After a crash, ports that are still held get a few seconds to be let go.
    """
    ports = [
        ("WSP_HTTP_PORT", "WSP_HTTP_HOST", settings.http_host, settings.http_port),
        ("WSP_FTP_PORT", "WSP_FTP_HOST", settings.ftp_host, settings.ftp_port),
    ]
    if settings.ftp_implicit_tls_port is not None:
        ports.append(("WSP_FTP_IMPLICIT_TLS_PORT", "WSP_FTP_HOST", settings.ftp_host, settings.ftp_implicit_tls_port))
    for (one, _, _, port), (other, _, _, its_port) in combinations(ports, 2):
        if port == its_port:
            raise StartupError(f"{one} and {other}: both are {port}, two ports are needed")
    deadline = time.monotonic() + (CRASH_WAIT_SECONDS if after_crash else 0.0)
    for setting, host_setting, host, port in ports:
        while (trouble := _cannot_listen(setting, host_setting, host, port)) is not None:
            if time.monotonic() >= deadline:
                raise StartupError(trouble)
            time.sleep(RETRY_SECONDS)


def _cannot_listen(setting: str, host_setting: str, host: str, port: int) -> str | None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return f"{host_setting}: {host!r} is not an address or a name of this machine"
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # Not SO_REUSEPORT: it would let us in beside another server. TIME_WAIT alone is no reason to refuse.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} is in use by another program; stop it, or choose another with {setting}"
            if error.errno == errno.EACCES:
                return f"Port {port} needs more rights than we have; choose one above 1023 with {setting}"
            return f"{host_setting}: cannot listen on {host} ({error.strerror})"
    return None
