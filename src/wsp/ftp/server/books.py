"""What each FTP process of this machine has begun and not ended: a book for each, which outlives its process.

A process that is killed leaves its book behind. From that the others know which homes it may have left with a wrong
figure, and which hidden files nobody writes to any more.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wsp.ftp.server.shared import SharedTable, WorkerNumber

IN_FLIGHT, MOVED_BYTES, MOVED_FILES, UPLOADS, UNWRITTEN = range(5)
"""Bytes charged for uploads on their way; bytes and files of changes that have begun; uploads on their way, charged
or not; 1 = the row in the store is to be written."""
FIELDS = UNWRITTEN + 1

TOKEN_BYTES = 4

_NAME = re.compile(r"usage-(\d+)-([0-9a-f]+)\.book")


class Books:
    """The book of this process, and those of its siblings. A record of a book has the key of a home."""

    def __init__(self, folder: Path, worker: WorkerNumber, *, slots: int) -> None:
        """Raises OSError."""
        self.token = secrets.token_hex(TOKEN_BYTES)
        self._folder = folder
        self._worker = worker
        self._slots = slots
        self._path = folder / f"usage-{worker.number}-{self.token}.book"
        self.own = self._open(self._path)
        self._others: dict[Path, SharedTable] = {}

    def live_tokens(self) -> set[str]:
        """The tokens of all processes that are alive."""
        return {token for path, number, token in self._all() if self._is_live(path, number)}

    def total(self, key: bytes, field: int) -> int:
        """The sum of a field over all processes that are alive. Call it with the table of homes `locked()`."""
        total = 0
        for path, number, _ in self._all():
            if self._is_live(path, number):
                with suppress(FileNotFoundError):  # it has ended in this very moment
                    book = self.own if path == self._path else self._other(path)
                    slot = book.find(key, make=False)
                    total += book.get(slot, field) if slot is not None else 0
        return total

    def dead(self) -> Iterator[tuple[Path, SharedTable]]:
        """The books of processes that died. Whoever has dealt with one calls `bury()`."""
        for path in [path for path in self._others if not path.exists()]:  # of processes that ended in good order
            self._others.pop(path).close()
        for path, number, _ in self._all():
            if not self._is_live(path, number):
                with suppress(FileNotFoundError):  # another process was quicker
                    yield path, self._other(path)

    def bury(self, path: Path) -> None:
        """Remove the book of a dead process."""
        path.unlink(missing_ok=True)
        book = self._others.pop(path, None)
        if book is not None:
            book.close()

    def end(self) -> None:
        """Remove our book, if nothing in it is left open."""
        if not any(self.own.get(slot, field) for slot, _ in self.own.slots() for field in range(FIELDS)):
            self._path.unlink(missing_ok=True)

    def _all(self) -> Iterator[tuple[Path, int, str]]:
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                yield path, int(match[1]), match[2]

    def _is_live(self, path: Path, number: int) -> bool:
        if number == self._worker.number:
            return path == self._path  # an earlier process had our number, and is gone
        return self._worker.is_taken(number)

    def _other(self, path: Path) -> SharedTable:
        if path not in self._others:
            if not path.exists():
                raise FileNotFoundError(path)
            self._others[path] = self._open(path)
        return self._others[path]

    def _open(self, path: Path) -> SharedTable:
        return SharedTable(path, slots=self._slots, fields=FIELDS)
