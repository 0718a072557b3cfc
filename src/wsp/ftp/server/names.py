"""One change to a name at a time, over all FTP processes of this machine.

To weigh what a change replaces, and then to make the change, has to be one step: two sessions that replace the same
file would both count the old one as gone.
"""

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsp.ftp.server.shared import FILE_MODE

STRIPES = 1024  # two names that share a stripe wait for each other, for the microseconds of a rename

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid


class NameLocks:
    """Locks on names in folders; the kernel lets go of those of a process that dies."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        # The lock of the file belongs to the process: its threads need one more.
        self._locks = [threading.Lock() for _ in range(STRIPES)]

    @contextmanager
    def held(self, *places: tuple[int, str]) -> Iterator[None]:
        """Nobody else changes these names (the descriptor of a folder, and a name in it) at the same time."""
        stripes = sorted({_stripe(folder, name) for folder, name in places})  # in order: nobody waits in a circle
        for stripe in stripes:
            self._locks[stripe].acquire()
            self._lock(fcntl.F_WRLCK, stripe)
        try:
            yield
        finally:
            for stripe in stripes:
                self._lock(fcntl.F_UNLCK, stripe)
                self._locks[stripe].release()

    def _lock(self, kind: int, stripe: int) -> None:
        # An open file description lock, fcntl(2): of the other kind, the kernel takes the threads of a process for
        # one, and sees deadlocks where none are.
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(kind, os.SEEK_SET, stripe, 1, 0))


def _stripe(folder: int, name: str) -> int:
    # Not hash(): that differs from process to process.
    return zlib.crc32(f"{os.fstat(folder).st_ino}/{name}".encode("utf-8", "surrogateescape")) % STRIPES
