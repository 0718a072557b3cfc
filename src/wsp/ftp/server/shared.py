"""Figures that every FTP process of this machine shares, in a file that all of them map into memory.

What a transfer needs to know at every buffer (how much of a quota is left, when the next byte may go) cannot be asked
of a database. A table holds records of 64-bit integers under keys; reading and changing one takes microseconds, so
it is done on the loop. Nothing here outlives the machine: what must be true after a crash is found out anew.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATE_FOLDER = "ftp-state"  # in the data folder: what the FTP processes of this machine share
KEY_BYTES = 16
FILE_MODE = 0o600
FOLDER_MODE = 0o700

_HEADER = struct.Struct("<8sqqq")  # magic and layout, slots, fields, slots in use
_MAGIC = b"wsp-tab1"
_EMPTY = bytes(KEY_BYTES)


class TableFull(Exception):
    """Every slot of the table is taken."""


def key_of(*parts: str) -> bytes:
    """The key of a record that these texts name together."""
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def private(path: str, flags: int) -> int:
    """An `opener` of open() for what is this server's alone: the umask is one for the clients' files."""
    return os.open(path, flags, FILE_MODE)


class SharedTable:
    """Records of `fields` signed 64-bit integers each, shared by every process that opens the same file.

    The whole file is allocated at once: a full disk must not show as a signal in the middle of a transfer. A file of
    another layout is made anew. Raises OSError when the file cannot be made.
    """

    def __init__(self, path: Path, *, slots: int, fields: int) -> None:
        self._slots = slots
        self._record = struct.Struct(f"<{KEY_BYTES}s{fields}q")
        self._field = struct.Struct("<q")
        self._fields = struct.Struct(f"<{fields}q")
        self._thread_lock = threading.Lock()
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        size = _HEADER.size + slots * self._record.size
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            fits = (
                os.fstat(self._fd).st_size == size
                and os.pread(self._fd, 24, 0) == _HEADER.pack(_MAGIC, slots, fields, 0)[:24]
            )
            if not fits:
                # Other processes of this server, if there are any, have the same layout: nobody maps the old file.
                os.ftruncate(self._fd, 0)
                os.posix_fallocate(self._fd, 0, size)
                os.pwrite(self._fd, _HEADER.pack(_MAGIC, slots, fields, 0), 0)
            self._map = mmap.mmap(self._fd, size)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            os.close(self._fd)
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else, in any process, is in here at the same time. Not to be nested, and never held for long."""
        # flock(2), not lockf(3): that takes the threads of a process for one, and sees deadlocks where none are.
        with self._thread_lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def find(self, key: bytes, *, make: bool = True) -> int | None:
        """The slot of a key; with `make`, a new one of zeros if there is none. Call it `locked()`. Raises TableFull."""
        slot = int.from_bytes(key[:8], "little") % self._slots
        for _ in range(self._slots):
            start = _HEADER.size + slot * self._record.size
            there = self._map[start : start + KEY_BYTES]
            if there == key:
                return slot
            if there == _EMPTY:
                if not make:
                    return None
                self._map[start : start + KEY_BYTES] = key
                return slot
            slot = (slot + 1) % self._slots
        if make:
            raise TableFull
        return None

    def get(self, slot: int, field: int) -> int:
        """One integer of a record."""
        value: int = self._field.unpack_from(self._map, self._offset(slot, field))[0]
        return value

    def set(self, slot: int, field: int, value: int) -> None:
        """Change one integer of a record."""
        self._field.pack_into(self._map, self._offset(slot, field), value)

    def add(self, slot: int, field: int, delta: int) -> int:
        """Add to one integer of a record; the new value. Call it `locked()`."""
        value = self.get(slot, field) + delta
        self.set(slot, field, value)
        return value

    def read(self, slot: int) -> list[int]:
        """All integers of a record."""
        return list(self._fields.unpack_from(self._map, self._offset(slot, 0)))

    def write(self, slot: int, values: list[int]) -> None:
        """Change all integers of a record. Call it `locked()`, with what was read in the same lock."""
        self._fields.pack_into(self._map, self._offset(slot, 0), *values)

    def slots(self) -> Iterator[tuple[int, bytes]]:
        """Every slot in use, with its key."""
        for slot in range(self._slots):
            start = _HEADER.size + slot * self._record.size
            key = self._map[start : start + KEY_BYTES]
            if key != _EMPTY:
                yield slot, key

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._fd)

    def _offset(self, slot: int, field: int) -> int:
        return _HEADER.size + slot * self._record.size + KEY_BYTES + field * self._field.size


class WorkerNumber:
    """A small number that is this process's alone, among the FTP processes of this machine, until it ends.

    The kernel lets go of it when the process dies, however that happens.
    """

    MOST = 64

    def __init__(self, folder: Path) -> None:
        """Raises OSError when every number is taken, or the folder cannot be written."""
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._folder = folder
        for number in range(self.MOST):
            lock = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self.number = number
            self._lock = lock
            return
        raise OSError(f"more than {self.MOST} FTP processes on {folder}")

    def is_taken(self, number: int) -> bool:
        """Is the process of that number alive?"""
        if number == self.number:
            return True
        try:
            lock = os.open(self._path(number), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def release(self) -> None:
        """Let somebody else have the number."""
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._folder / f"worker-{number}.lock"
