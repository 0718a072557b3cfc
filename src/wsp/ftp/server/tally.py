"""What a session does to the files of homes, with the figures of those homes moved along.

Whoever removes, renames or receives files does it through here, and nowhere else.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from wsp.ftp.counting import HIDDEN_PREFIX, Figure, real_path, weight
from wsp.ftp.jail import Place
from wsp.ftp.server.ledger import UNKNOWN_MOVE, Effect, Ledger, Record
from wsp.settings import MEBIBYTE

AHEAD_BYTES = 2**20  # an upload with much room is charged in such steps


def unlink(ledger: Ledger, place: Place) -> None:
    """Remove a file or link. Raises OSError."""
    folder, name = place
    with ledger.names.held(place):
        weighed = weight(name, os.lstat(name, dir_fd=folder))
        with ledger.changing(*_removal(ledger.records_of(folder), weighed)):
            os.unlink(name, dir_fd=folder)


class Tally:
    """A session's view of the figures. `quota_mb` is asked at every check: it may change at any time (0 = none)."""

    def __init__(self, ledger: Ledger, home: str, quota_mb: Callable[[], int]) -> None:
        """Raises TableFull."""
        self.record = ledger.track(home)
        self._ledger = ledger
        self._quota_mb = quota_mb
        self._is_open = True
        ledger.use(self.record)

    def close(self) -> None:
        """The session does nothing more in the home, but for the end of a running upload."""
        if self._is_open:
            self._is_open = False
            self._ledger.leave(self.record)

    @property
    def limit(self) -> int:
        """The quota in bytes; 0 = none."""
        return self._quota_mb() * MEBIBYTE

    @property
    def is_ready(self) -> bool:
        """Whether uploads can be held to the quota: without a first count of the home, nobody knows what is used."""
        return not self.limit or self._ledger.is_known(self.record)

    def temporary_token(self) -> str:
        """What names the hidden files of this process."""
        return f"{self._ledger.origin}{self._ledger.books.token}"

    def charge(self, folder: int, *, credit: int) -> "Charge":
        """The account of an upload into an open folder, which will replace a file of `credit` bytes."""
        return Charge(self._ledger, self, self._ledger.records_of(folder), credit)

    @contextmanager
    def copying(self, folder: int) -> Iterator[Callable[[int], None]]:
        """Inside this, a tree is copied into an open folder, and charged as it grows.

        Gives what has to be told of the bytes as they are copied: that raises QuotaExceeded.
        """
        charge, size = self.charge(folder, credit=0), 0

        def grow(count: int) -> None:
            nonlocal size
            size += count
            charge.cover(size)

        try:
            yield grow
            charge.arrived(size)
        finally:
            charge.release()

    def count_again(self, place: Place) -> None:
        """Whole folders came, went or changed places here: the homes that they belong to are counted anew."""
        for record in self._ledger.records_of(place.folder):
            self._ledger.to_count.append(record.home)
        self._ledger.to_count.append(self._ledger.name_of(f"{real_path(place.folder)}/{place.name}"))

    def unlink(self, place: Place) -> None:
        """Remove a file or link. Raises OSError."""
        unlink(self._ledger, place)

    def rename(self, source: Place, target: Place) -> None:
        """rename(2): a file in the way is replaced. Raises OSError."""
        to_count: list[str] = []
        with self._ledger.names.held(source, target):
            moved = os.lstat(source.name, dir_fd=source.folder)
            old = _lstat(target)
            if old is not None and (moved.st_dev, moved.st_ino) == (old.st_dev, old.st_ino):
                effects: tuple[Effect, ...] = ()  # two names of one file: rename(2) leaves both
            elif stat.S_ISDIR(moved.st_mode):
                effects, to_count = self._folder_moves(source, target)
            else:
                weighed = weight(source.name, moved)
                arrives = self._ledger.records_of(target.folder)
                effects = (
                    *_removal(self._ledger.records_of(source.folder), weighed),
                    Effect(arrives, weighed.used_bytes, weighed.file_count),
                    *_removal(arrives, weight(target.name, old) if old is not None else Figure(0, 0)),
                )
            with self._ledger.changing(*effects):
                os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
        self._ledger.to_count.extend(to_count)

    def _folder_moves(self, source: Place, target: Place) -> tuple[tuple[Effect, ...], list[str]]:
        """A folder takes along what is in it, and nobody knows how much that is.

        So the homes that it leaves or comes to have to be counted, and those that lie in it.
        """
        leaves, arrives = self._ledger.records_of(source.folder), self._ledger.records_of(target.folder)
        homes = [record.home for record in {*leaves} ^ {*arrives}]
        homes += [self._ledger.name_of(f"{real_path(place.folder)}/{place.name}") for place in (source, target)]
        # The two halves add up to nothing, and a count that goes on meanwhile is not believed.
        records = tuple({*leaves, *arrives})
        halves = Effect(records, UNKNOWN_MOVE, UNKNOWN_MOVE), Effect(records, -UNKNOWN_MOVE, -UNKNOWN_MOVE)
        return halves, homes


class Charge:
    """What one upload is charged until it is published, kept or given up: its bytes beyond those that it replaces."""

    def __init__(self, ledger: Ledger, tally: Tally, records: tuple[Record, ...], credit: int) -> None:
        self._ledger = ledger
        self.tally = tally
        self._records = records
        self._credit = credit
        self._charged = 0
        self._covered = credit  # how far the upload may grow without being charged more
        self._is_open = True
        ledger.note_upload(tally.record, 1)

    def cover(self, size: int) -> None:
        """The upload is about to grow to `size` bytes. Raises QuotaExceeded."""
        if size <= self._covered:
            return
        least = size - self._credit
        self._charged = self._ledger.charge(
            self._records, self.tally.record, self._charged, least, least + AHEAD_BYTES, self.tally.limit
        )
        self._covered = self._charged + self._credit

    def check(self, size: int) -> None:
        """Could the upload grow to `size` bytes, as things are? Raises QuotaExceeded."""
        self._ledger.check(self._records, self.tally.record, self._charged, size - self._credit, self.tally.limit)

    @contextmanager
    def taking(self, place: Place, size: int) -> Iterator[None]:
        """Inside this, a hidden file becomes the beginning, `size` bytes long, of this upload. Raises OSError."""
        with self._ledger.names.held(place):
            there = weight(place.name, os.lstat(place.name, dir_fd=place.folder))
            charged = max(0, size - self._credit)
            records = self._ledger.records_of(place.folder)
            with self._ledger.changing(*_removal(records, there), Effect(self._records, in_flight=charged)):
                yield
            self._charged, self._covered = charged, charged + self._credit

    @contextmanager
    def settling(self, place: Place, size: int) -> Iterator[None]:
        """Inside this, the upload, `size` bytes long, gets its name, and replaces what has it now.

        Raises OSError; QuotaExceeded when what it replaces has become smaller meanwhile, and the rest does not fit.
        """
        with self._ledger.names.held(place):
            old = _lstat(place)
            replaced = weight(place.name, old) if old is not None else Figure(0, 0)
            least = size - replaced.used_bytes
            if least > self._charged:
                self._charged = self._ledger.charge(
                    self._records, self.tally.record, self._charged, least, least, self.tally.limit
                )
            records = self._ledger.records_of(place.folder)
            with self._ledger.changing(
                Effect(records, size, 0 if place.name.startswith(HIDDEN_PREFIX) else 1),
                *_removal(records, replaced),
                Effect(self._records, in_flight=-self._charged),
            ):
                yield
            self._charged = 0
        self.release()

    def arrived(self, size: int) -> None:
        """What was charged is there now, `size` bytes, in files that the next count finds."""
        with self._ledger.changing(Effect(self._records, used_bytes=size, in_flight=-self._charged)):
            self._charged = 0

    def release(self) -> None:
        """The upload is no more."""
        if self._charged:
            with self._ledger.changing(Effect(self._records, in_flight=-self._charged)):
                self._charged = 0
        if self._is_open:
            self._is_open = False
            self._ledger.note_upload(self.tally.record, -1)


def _removal(records: tuple[Record, ...], weighed: Figure) -> tuple[Effect, ...]:
    return (Effect(records, -weighed.used_bytes, -weighed.file_count),) if any(weighed) else ()


def _lstat(place: Place) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.lstat(place.name, dir_fd=place.folder)
    return None
