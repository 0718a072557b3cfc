"""What every home holds, known to all FTP processes of this machine at every moment.

A home's figure is what was last counted, plus what FTP has changed since, plus what is charged for uploads on their
way. Homes lie within each other (`/home/ann` and `/home/ann/example.com`): a change counts for every home that it
lies in. Which those are is asked of the kernel, by the descriptor of the folder, so links make no difference.

How a count and changes that go on meanwhile come together is in `docs/decisions/0007-the-ledger-of-homes.md`.
"""

import errno
import fcntl
import os
import queue
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wsp.ftp.counting import Figure, real_path
from wsp.ftp.server import books
from wsp.ftp.server.books import Books
from wsp.ftp.server.names import NameLocks
from wsp.ftp.server.shared import FILE_MODE, FOLDER_MODE, SharedTable, WorkerNumber, key_of, private

SLOTS = 2**17  # homes that were used over FTP on this machine
FULL_SHARE = 0.75  # a table so full is begun anew when the first process starts
ROOMY_BYTES = 64 * 2**20  # with so much room left, uploads may charge ahead of what has arrived
UNKNOWN_MOVE = 2**45  # bytes and files of a change whose size nobody knows
CACHED_FOLDERS = 10_000

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_BYTES, _FILES, _IN_FLIGHT, _MOVED_BYTES, _MOVED_FILES, _KNOWN, _COUNTED_AT, _COST_MS, _COUNTER, _EXACT = range(10)
_HOMES, _MADE_AT = range(2)  # of the record that is no home's
_NO_HOME = key_of("")
_WRAP = 2**62  # what was moved grows without end; only differences are looked at


class QuotaExceeded(OSError):
    """An upload needs more room than its quota has left. `used` and `limit` are bytes, this upload not counted."""

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self.used = used
        self.limit = limit


class Record(NamedTuple):
    """A home, its record in the table, and that in the book of this process."""

    home: str
    slot: int
    own: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does to homes: bytes and files there, and bytes charged for uploads on their way."""

    records: tuple[Record, ...]
    used_bytes: int = 0
    files: int = 0
    in_flight: int = 0


class Snapshot(NamedTuple):
    """A home as a count of it begins."""

    used_bytes: int
    files: int
    moved_bytes: int
    moved_files: int


class CountState(NamedTuple):
    """When a home was last counted (seconds since 1970), what that took (seconds), and whether nothing disturbed it."""

    counted_at: float
    cost: float
    is_exact: bool


class Ledger:
    """The figures of homes. Thread-safe, and safe against other processes. What is done at every buffer is memory."""

    def __init__(self, folder: Path, worker: WorkerNumber, files_root: Path, *, now: float) -> None:
        """`now` in seconds since 1970. Raises OSError."""
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._worker = worker
        self._root = os.path.realpath(files_root).rstrip("/")
        self._homes_path = folder / "homes"
        self._cache: dict[str, tuple[Record, ...]] = {}
        self._cached_homes = -1
        self._changed: dict[str, Record] = {}
        self._changed_lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self.arrivals: queue.SimpleQueue[Record] = queue.SimpleQueue()
        """Homes that a session of this process has begun to use."""
        self.to_count: deque[str] = deque()
        """Homes at and below these names are to be counted: folders were moved there."""
        starting = os.open(folder / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not any(worker.is_taken(number) for number in range(worker.MOST) if number != worker.number):
                _begin_anew(folder)
            self.origin = _origin(folder / "origin")
            self._table = SharedTable(folder / "usage.table", slots=SLOTS, fields=_EXACT + 1)
            self.books = Books(folder, worker, slots=SLOTS)
            self.names = NameLocks(folder / "names.lock")
            with self._table.locked():
                self._header = self._table.find(_NO_HOME) or 0
                if not self._table.get(self._header, _MADE_AT):
                    self._table.set(self._header, _MADE_AT, int(now))
        finally:
            os.close(starting)

    @property
    def made_at(self) -> float:
        """When the table was begun, in seconds since 1970: of what was before, it knows nothing."""
        return self._table.get(self._header, _MADE_AT)

    def end(self) -> None:
        """The process ends in good order. What it has left open all the same, another one makes good."""
        self.books.end()

    # Homes

    def track(self, home: str) -> Record:
        """The record of a home, by its name in the panel's name space. Raises TableFull, OSError."""
        key = key_of(home)
        with self._table.locked():
            slot = self._table.find(key, make=False)
            if slot is None:
                # By their keys alone, nobody could find the homes of a process that died.
                with open(self._homes_path, "ab", opener=private) as names:
                    names.write(f"{home}\n".encode("utf-8", "surrogateescape"))
                slot = self._table.find(key) or 0
                self._table.add(self._header, _HOMES, 1)
            return Record(home, slot, self.books.own.find(key) or 0)

    def use(self, record: Record) -> None:
        """A session begins to work in a home. On the loop alone, as `leave()`."""
        self._users[record.home] += 1
        if self._users[record.home] == 1:
            self.arrivals.put(record)

    def leave(self, record: Record) -> None:
        """It has ended."""
        self._users[record.home] -= 1
        if not self._users[record.home]:
            del self._users[record.home]

    def is_in_use(self, record: Record) -> bool:
        """Whether a session of this process works in a home."""
        return record.home in self._users

    def homes(self) -> list[str]:
        """Every home that is tracked, by whatever process."""
        try:
            text = self._homes_path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys(text.split("\n")[:-1]))

    def records_of(self, folder: int) -> tuple[Record, ...]:
        """The homes that an open folder lies in, the outermost first."""
        path = real_path(folder)
        homes = self._table.get(self._header, _HOMES)
        if homes != self._cached_homes or len(self._cache) > CACHED_FOLDERS:
            self._cache = {}
            self._cached_homes = homes
        cache = self._cache  # another thread may begin a new one, while what is found here is of the old homes
        found = cache.get(path)
        if found is None:
            found = cache[path] = self._records_above(self.name_of(path))
        return found

    def name_of(self, path: str) -> str:
        """The name of a real path of this machine in the panel's name space; empty when it is outside."""
        return path[len(self._root) :] if path.startswith(f"{self._root}/") else ""

    def _records_above(self, name: str) -> tuple[Record, ...]:
        steps = name.split("/")
        homes = ["/".join(steps[:end]) for end in range(2, len(steps) + 1)]
        found = []
        with self._table.locked():
            for home in homes:
                key = key_of(home)
                slot = self._table.find(key, make=False)
                if slot is not None:
                    found.append(Record(home, slot, self.books.own.find(key) or 0))
        return tuple(found)

    # Figures

    def figure(self, record: Record) -> Figure:
        """What a home holds, what is charged for uploads on their way included."""
        with self._table.locked():
            return Figure(max(0, self._used(record.slot)), max(0, self._table.get(record.slot, _FILES)))

    def is_known(self, record: Record) -> bool:
        """Whether the home was ever counted."""
        return bool(self._table.get(record.slot, _KNOWN))

    def charge(self, records: tuple[Record, ...], own: Record, held: int, least: int, wanted: int, limit: int) -> int:
        """Raise what an upload is charged from `held` bytes to at least `least`, and to `wanted` where room abounds.

        `own` is the home that has the limit (bytes, 0 = none). Returns what it is charged now. Raises QuotaExceeded,
        and then has changed nothing.
        """
        with self._table.locked():
            if self._require(records, own, held, least, limit) < ROOMY_BYTES:
                wanted = least
            for _, slot, own_slot in records:
                # The book first: a process that dies in between has all of its uploads taken out of the figure.
                own_fields = self.books.own.read(own_slot)
                own_fields[books.IN_FLIGHT] += wanted - held
                own_fields[books.UNWRITTEN] = 1
                self.books.own.write(own_slot, own_fields)
                self._table.add(slot, _IN_FLIGHT, wanted - held)
        self._note_change(records)
        return wanted

    def check(self, records: tuple[Record, ...], own: Record, held: int, least: int, limit: int) -> None:
        """Could the upload be charged `least` bytes? Raises QuotaExceeded."""
        with self._table.locked():
            self._require(records, own, held, least, limit)

    def _require(self, records: tuple[Record, ...], own: Record, held: int, least: int, limit: int) -> int:
        if not limit:
            return ROOMY_BYTES
        others = self._used(own.slot) - (held if own in records else 0)
        if least > held and others + least > limit:
            raise QuotaExceeded(max(0, others), limit)
        return limit - others - least

    def note_upload(self, own: Record, change: int) -> None:
        """One more upload is on its way (1), or one fewer (-1): a process that dies leaves their hidden files."""
        with self._table.locked():
            self.books.own.add(own.own, books.UPLOADS, change)

    @contextmanager
    def changing(self, *effects: Effect) -> Iterator[None]:
        """Make a change to the files inside this: its effects count when it succeeds.

        They are announced before, so that a count which may or may not have seen the change knows of it.
        """
        moves = _moves(effects)
        self._announce(moves, 1)
        try:
            yield
        except BaseException:
            self._announce(moves, -1)
            raise
        with self._table.locked():
            for record, move in moves.items():
                fields = self._table.read(record.slot)
                fields[_BYTES] += move.used_bytes
                fields[_FILES] += move.files
                fields[_IN_FLIGHT] += move.in_flight
                self._table.write(record.slot, fields)
                # The book last: a process that dies before has the home counted anew.
                own_fields = self.books.own.read(record.own)
                own_fields[books.IN_FLIGHT] += move.in_flight
                own_fields[books.MOVED_BYTES] -= move.moved_bytes
                own_fields[books.MOVED_FILES] -= move.moved_files
                own_fields[books.UNWRITTEN] = 1
                self.books.own.write(record.own, own_fields)
        self._note_change(tuple(moves))

    def _announce(self, moves: dict[Record, "_Move"], sign: int) -> None:
        with self._table.locked():
            for record, move in moves.items():
                self.books.own.add(record.own, books.MOVED_BYTES, sign * move.moved_bytes)
                self.books.own.add(record.own, books.MOVED_FILES, sign * move.moved_files)
                if sign > 0:
                    fields = self._table.read(record.slot)
                    fields[_MOVED_BYTES] = (fields[_MOVED_BYTES] + move.moved_bytes) % _WRAP
                    fields[_MOVED_FILES] = (fields[_MOVED_FILES] + move.moved_files) % _WRAP
                    self._table.write(record.slot, fields)

    def _used(self, slot: int) -> int:
        return self._table.get(slot, _BYTES) + self._table.get(slot, _IN_FLIGHT)

    # What is to be written to the store

    def _note_change(self, records: tuple[Record, ...]) -> None:
        for record in records:
            if record.home not in self._changed:
                with self._changed_lock:
                    self._changed[record.home] = record

    def take_changed(self) -> list[Record]:
        """The homes whose figures have changed since the last call; then come `written()` or `give_back()`."""
        with self._changed_lock:
            taken, self._changed = list(self._changed.values()), {}
        return taken

    def give_back(self, records: list[Record]) -> None:
        """Have these homes among the next ones that `take_changed()` gives."""
        self._note_change(tuple(records))

    def written(self, records: list[Record]) -> None:
        """The figures of these homes are in the store."""
        with self._table.locked(), self._changed_lock:
            for record in records:
                if record.home not in self._changed:
                    self.books.own.set(record.own, books.UNWRITTEN, 0)

    # Counts

    def count_state(self, record: Record) -> CountState:
        """How the last count of a home went; all zero when there was none."""
        get = self._table.get
        return CountState(
            get(record.slot, _COUNTED_AT) / 1000, get(record.slot, _COST_MS) / 1000, bool(get(record.slot, _EXACT))
        )

    def begin_count(self, record: Record) -> Snapshot | None:
        """Begin a count of a home; None while another process counts it."""
        key = key_of(record.home)
        with self._table.locked():
            counter = self._table.get(record.slot, _COUNTER) - 1
            if counter >= 0 and counter != self._worker.number and self._worker.is_taken(counter):
                return None
            self._table.set(record.slot, _COUNTER, self._worker.number + 1)
            get = self._table.get
            return Snapshot(
                get(record.slot, _BYTES),
                get(record.slot, _FILES),
                # What has begun and not ended may be seen by the count or not, as what begins during it.
                get(record.slot, _MOVED_BYTES) - self.books.total(key, books.MOVED_BYTES),
                get(record.slot, _MOVED_FILES) - self.books.total(key, books.MOVED_FILES),
            )

    def end_count(self, record: Record, began: Snapshot, counted: Figure | None, *, now: float, cost: float) -> bool:
        """Bring a count in; without a figure, give it up. Returns whether no change went on during it.

        Of changes that did, nobody knows which ones it has seen. So it says between which bounds the figure lay when it
        began; a figure within them stays, another one is moved to the nearer bound.
        """
        table, slot = self._table, record.slot
        with table.locked():
            table.set(slot, _COUNTER, 0)
            if counted is None:
                return False
            moved_bytes = (table.get(slot, _MOVED_BYTES) - began.moved_bytes) % _WRAP
            moved_files = (table.get(slot, _MOVED_FILES) - began.moved_files) % _WRAP
            is_exact = not moved_bytes and not moved_files
            if table.get(slot, _KNOWN):
                table.add(slot, _BYTES, _beyond(counted.used_bytes - began.used_bytes, moved_bytes))
                table.add(slot, _FILES, _beyond(counted.file_count - began.files, moved_files))
            else:
                table.set(slot, _BYTES, counted.used_bytes)
                table.set(slot, _FILES, counted.file_count)
            table.set(slot, _KNOWN, 1)
            table.set(slot, _EXACT, int(is_exact))
            table.set(slot, _COUNTED_AT, int(now * 1000))
            table.set(slot, _COST_MS, int(cost * 1000) + 1)
            self.books.own.set(record.own, books.UNWRITTEN, 1)
        self._note_change((record,))
        return is_exact

    def clean_up(self) -> list[str]:
        """Take over from processes that have died. Returns the homes that are to be counted: theirs may be wrong."""
        keys: set[bytes] = set()
        for path, book in self.books.dead():
            left = [key for slot, key in book.slots() if any(book.get(slot, field) for field in range(books.FIELDS))]
            with self._table.locked():
                for key in left:
                    slot = self._table.find(key, make=False)
                    if slot is not None:
                        # What they left is files now, if hidden ones: the count finds them, and removes them.
                        self._table.set(slot, _IN_FLIGHT, self.books.total(key, books.IN_FLIGHT))
                        self.books.own.set(self.books.own.find(key) or 0, books.UNWRITTEN, 1)  # if we die as well
            keys.update(left)
            self.books.bury(path)
        return [home for home in self.homes() if key_of(home) in keys] if keys else []


class _Move:
    """All effects of a change on one home, and how much they move, in either direction."""

    __slots__ = ("files", "in_flight", "moved_bytes", "moved_files", "used_bytes")

    def __init__(self) -> None:
        self.used_bytes = self.files = self.in_flight = self.moved_bytes = self.moved_files = 0

    def add(self, effect: Effect) -> None:
        self.used_bytes += effect.used_bytes
        self.files += effect.files
        self.in_flight += effect.in_flight
        self.moved_bytes += abs(effect.used_bytes)
        self.moved_files += abs(effect.files)


def _moves(effects: tuple[Effect, ...]) -> dict[Record, _Move]:
    moves: dict[Record, _Move] = {}
    for effect in effects:
        for record in effect.records:
            moves.setdefault(record, _Move()).add(effect)
    return moves


def _beyond(difference: int, bound: int) -> int:
    """By how much a difference is outside of plus or minus `bound`."""
    if difference > bound:
        return difference - bound
    return min(0, difference + bound)


def _begin_anew(folder: Path) -> None:
    """Forget what an earlier boot of the machine left: not all of it may have reached the disk. Nobody else runs."""
    boot, mark = BOOT_ID.read_text().strip(), folder / "boot"
    with suppress(OSError):
        if mark.read_text() == boot and not _is_full(folder / "usage.table"):
            return
    for path in (folder / "usage.table", folder / "homes", *folder.glob("usage-*.book")):
        path.unlink(missing_ok=True)
    with open(mark, "w", opener=private) as file:
        file.write(boot)


def _is_full(path: Path) -> bool:
    if not path.exists():
        return False
    table = SharedTable(path, slots=SLOTS, fields=_EXACT + 1)
    try:
        header = table.find(_NO_HOME)
        return header is not None and table.get(header, _HOMES) > SLOTS * FULL_SHARE
    finally:
        table.close()


def _origin(path: Path) -> str:
    """What tells the hidden files of this server's processes from those of another machine on the same disk."""
    with suppress(FileNotFoundError):
        return path.read_text()
    origin = secrets.token_hex(4)
    with open(path, "w", opener=private) as file:
        file.write(origin)
    return origin
