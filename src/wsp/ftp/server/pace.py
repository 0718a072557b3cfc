"""Bandwidth limits of accounts: over all their sessions, in every FTP process of this machine.

The generic cell rate algorithm: an account has, for each direction, the time at which everything that was sent so far
is paid for. A buffer moves that time on by what it costs at the account's rate; who is ahead of the clock waits.
"""

import time
from pathlib import Path

from wsp.ftp.logins import Login
from wsp.ftp.server.shared import SharedTable, TableFull, key_of

ACCOUNTS = 2**17  # that have a limit and have made a transfer; 40 bytes each
BURST_NS = 50_000_000  # how far ahead of the clock an account may be without waiting
STEPS = 20  # in a second: buffers are so small that a slow transfer goes smoothly
LEAST_BYTES = 512  # of a buffer, however slow
KILOBYTE = 1024

UPLOAD, DOWNLOAD = 0, 1
_BOOT = 2  # field: which run of this machine the times belong to, since the clock begins anew with each

_SECOND_NS = 1_000_000_000


def limit_of(login: Login | None, direction: int) -> int:
    """Bytes a second, 0 = unlimited."""
    if login is None:
        return 0
    return (login.upload_kbps if direction == UPLOAD else login.download_kbps) * KILOBYTE


def step_bytes(limit: int) -> int:
    """How much to send or receive at once, at `limit` bytes a second."""
    return max(LEAST_BYTES, limit // STEPS)


class Paces:
    """What every account may send and receive next."""

    def __init__(self, folder: Path, *, accounts: int = ACCOUNTS) -> None:
        """Raises OSError when the table in `folder` cannot be made."""
        self._table = SharedTable(folder / "rates", slots=accounts, fields=3)
        self._accounts = accounts
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        self._boot = int.from_bytes(key_of(boot)[:7], "little")

    def of(self, login: Login, direction: int) -> "Pace":
        """The pace of one transfer. Strangers share that of their domain."""
        key = key_of(login.username)
        with self._table.locked():
            try:
                slot = self._table.find(key)
            except TableFull:
                slot = None
            if slot is None:
                # It shares the pace of another account, and may be slower for it, but never faster.
                slot = int.from_bytes(key[:8], "little") % self._accounts
            if self._table.get(slot, _BOOT) != self._boot:
                self._table.set(slot, UPLOAD, 0)
                self._table.set(slot, DOWNLOAD, 0)
                self._table.set(slot, _BOOT, self._boot)
        return Pace(self._table, slot, direction)

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()


class Pace:
    """How fast one transfer may go, together with all others of its account."""

    def __init__(self, table: SharedTable, slot: int, field: int) -> None:
        self._table = table
        self._slot = slot
        self._field = field

    def wait(self, *, now: int | None = None) -> float:
        """Seconds to wait before the first byte. `now` is of the monotonic clock, in ns."""
        return _seconds(self._table.get(self._slot, self._field), time.monotonic_ns() if now is None else now)

    def pay(self, count: int, limit: int, *, now: int | None = None) -> float:
        """Note `count` bytes, at `limit` bytes a second. Seconds to wait before the next ones."""
        now = time.monotonic_ns() if now is None else now
        with self._table.locked():
            paid_until = max(now, self._table.get(self._slot, self._field)) + count * _SECOND_NS // limit
            self._table.set(self._slot, self._field, paid_until)
        return _seconds(paid_until, now)


def _seconds(paid_until: int, now: int) -> float:
    return max(0, paid_until - BURST_NS - now) / _SECOND_NS
