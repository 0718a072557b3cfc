"""Who sits where: the sessions of all FTP processes of this machine, counted where all of them see it.

A file that every process maps into memory has one seat for each session that may be: a byte with the number of the
process that took it (0: free), and eight bytes each of a hash of the client's address and of the account. Counting is
a search for eight bytes, which takes microseconds. Seats of a process that died are given back when they are missed.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsp.ftp.server.shared import FILE_MODE, WorkerNumber, key_of

KEY_BYTES = 8
NOBODY = bytes(KEY_BYTES)

_HEADER = struct.Struct("<8sq")  # magic and layout, seats
_MAGIC = b"wsp-seat"


class Seats:
    """The seats of this machine, for one process. To be used on its loop alone."""

    def __init__(self, folder: Path, worker: WorkerNumber, number: int) -> None:
        """`number` seats, in `folder`. Raises OSError when the file cannot be made."""
        self._worker = worker
        self._mine = bytes((worker.number + 1,))
        self._number = number
        self._addresses = _HEADER.size + number
        self._accounts = self._addresses + number * KEY_BYTES
        self._size = self._accounts + number * KEY_BYTES
        self._lock = os.open(folder / "seats.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        with self._locked():
            self._map = self._open(folder / "seats")
            self._vacate(self._mine)  # of a process that had this number, and died

    def take(self, address: str, limit: int) -> int | None:
        """A seat for a session from `address`, unless it has `limit` already; None: the address has, or nobody can.

        `limit` 0 = the address is not counted.
        """
        key = _key(address) if limit else NOBODY
        with self._locked():
            if limit and self._is_over(self._addresses, key, limit):
                return None
            place = self._free()
            if place is None:
                return None
            self._map[_HEADER.size + place] = self._mine[0]
            self._write(self._addresses, place, key)
            self._write(self._accounts, place, NOBODY)
            return place

    def is_full(self) -> bool:
        """Whether every seat is taken."""
        return self._map.find(b"\0", _HEADER.size, self._addresses) < 0

    def sit(self, place: int, account: str, limit: int) -> bool:
        """Give the session on that seat to an account, unless `limit` (0 = none) of its sessions are there already."""
        key = _key(account)
        if not limit:
            self._write(self._accounts, place, key)
            return True
        with self._locked():
            self._write(self._accounts, place, NOBODY)
            if self._is_over(self._accounts, key, limit):
                return False
            self._write(self._accounts, place, key)
            return True

    def stand(self, place: int) -> None:
        """The session on that seat is logged out."""
        self._write(self._accounts, place, NOBODY)

    def leave(self, place: int) -> None:
        """Give the seat back."""
        self._write(self._accounts, place, NOBODY)
        self._write(self._addresses, place, NOBODY)
        self._map[_HEADER.size + place] = 0

    def close(self) -> None:
        """Give back every seat of this process."""
        with self._locked():
            self._vacate(self._mine)
        self._map.close()
        os.close(self._lock)

    def _open(self, path: Path) -> mmap.mmap:
        header = _HEADER.pack(_MAGIC, self._number)
        if not path.exists() or path.stat().st_size != self._size or path.read_bytes()[: _HEADER.size] != header:
            # A new file in the place of one of another layout: a process that is on its way out may have that mapped.
            fresh = path.with_name("seats.new")
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
            try:
                os.posix_fallocate(fd, 0, self._size)
                os.pwrite(fd, header, 0)
            finally:
                os.close(fd)
            fresh.rename(path)
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), self._size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _is_over(self, column: int, key: bytes, limit: int) -> bool:
        if self._count(column, key) < limit:
            return False
        self._vacate_the_dead()
        return self._count(column, key) >= limit

    def _count(self, column: int, key: bytes) -> int:
        return self._map[column : column + self._number * KEY_BYTES].count(key)

    def _free(self) -> int | None:
        for attempt in range(2):
            place = self._map.find(b"\0", _HEADER.size, self._addresses)
            if place >= 0:
                return place - _HEADER.size
            if attempt == 0:
                self._vacate_the_dead()
        return None

    def _vacate_the_dead(self) -> None:
        for taken in set(self._map[_HEADER.size : self._addresses]) - {0}:
            if not self._worker.is_taken(taken - 1):
                self._vacate(bytes((taken,)))

    def _vacate(self, worker: bytes) -> None:
        place = self._map.find(worker, _HEADER.size, self._addresses)
        while place >= 0:
            self.leave(place - _HEADER.size)
            place = self._map.find(worker, place, self._addresses)

    def _write(self, column: int, place: int, key: bytes) -> None:
        start = column + place * KEY_BYTES
        self._map[start : start + KEY_BYTES] = key


def _key(text: str) -> bytes:
    return key_of(text)[:KEY_BYTES]
