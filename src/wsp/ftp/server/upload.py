"""An upload on its way: a hidden file beside its target, published under its name by one rename.

One that may only add is published by link(2) instead, which never replaces what is there.

What an interrupted upload left is kept, hidden, for a while, so that the same account can go on with it. The server
docs (`docs/ftp-files.md`) say what clients see of it, and why.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from wsp.ftp.jail import Place
from wsp.ftp.server.checksum import Checksum
from wsp.ftp.server.ledger import QuotaExceeded
from wsp.ftp.server.tally import Charge
from wsp.settings import MEBIBYTE

COPY_CHUNK = 8 * 2**20  # bytes in one copy_file_range(2)
TAKEN = "553 There is a file of that name already, and it may not be replaced."

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UploadRefused(Exception):
    """The upload cannot begin. `reply` is the whole answer to the client, code and sentence."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


def failure_reply(error: OSError) -> str:
    """The answer to a client whose upload the operating system stopped (RFC 959, 4.2: 553, 552, 550, 451)."""
    if isinstance(error, QuotaExceeded):
        return (
            f"552 Quota exceeded: {error.used / MEBIBYTE:.1f} of {error.limit // MEBIBYTE} MB are used, "
            "and this upload needs more than is left."
        )
    if error.errno == errno.EEXIST:  # only what may not replace a file finds one in its way
        return TAKEN
    if error.errno in _FULL:
        return f"552 The upload was not stored: {_reason(error)}."
    if error.errno in _REFUSED:
        return f"550 The upload was not stored: {_reason(error)}."
    return f"451 The upload was not stored: {_reason(error)}."


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


class Upload:
    """A file being received. Looks like a file object to pyftpdlib: `name`, `write()`, `close()`, `closed`.

    It ends in one of three ways: `publish()`, `keep()` or `discard()`; `close()` keeps what has arrived.
    """

    def __init__(self, place: Place, temporary: str, part: str, opened: int, name: str, charge: Charge) -> None:
        self.name = name
        self.closed = False
        self._charge = charge
        self._size = 0  # bytes in the hidden file
        self.start = 0  # bytes that were there before this transfer
        self.replaces = False  # whether there is an old file
        self._adds_only = False
        self._can_be_kept = True
        self._path = ""  # of the folder, when it must not be moved
        self._place = place
        self._temporary = temporary
        self._part = part
        self._fd = opened
        self._source = -1
        self._to_copy = 0
        self._checksum: Checksum | None = None

    @property
    def size(self) -> int:
        """The bytes of the file so far, with what was there before this transfer."""
        return self._size

    def check_along(self, checksum: Checksum | None) -> None:
        """Compute the checksum of the whole file while it arrives."""
        self._checksum = checksum

    def when_checked(self, function: Callable[[str], None]) -> None:
        """Hand the checksum of the published file to `function` on the loop, once it is known; empty: there is none."""
        if self._checksum is None:
            function("")
        else:
            self._checksum.then(function)

    @property
    def folder(self) -> int:
        """The open folder that it goes to."""
        return self._place.folder

    def open_arrived(self) -> int:
        """A descriptor for reading what has arrived so far; the caller closes it. Raises OSError."""
        return os.dup(self._fd)

    @property
    def bytes_to_copy(self) -> int:
        """How much of the old file `copy()` has yet to bring over before the first `write()`."""
        return self._to_copy

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises OSError as write(2) does, QuotaExceeded before it."""
        self._charge.cover(self._size + len(data))
        self._size += len(data)
        written = os.write(self._fd, data)
        while written < len(data):  # a disk that is almost full takes a part first, then says why
            data = memoryview(data)[written:]
            written = os.write(self._fd, data)
        if self._checksum is not None:
            self._checksum.arrived(self._fd, self.size)

    def copy(self) -> None:
        """Bring over the beginning of the old file that this upload goes on from. May take long: a thread's work."""
        self._charge.cover(self._size + self._to_copy)
        while self._to_copy:
            copied = os.copy_file_range(self._source, self._fd, min(COPY_CHUNK, self._to_copy))
            if not copied:
                raise OSError(errno.EIO, "the file became shorter meanwhile")
            self._to_copy -= copied
            self._size += copied
        if self._source >= 0:
            os.close(self._source)
            self._source = -1

    def copy_from(self, source: int, length: int) -> None:
        """Go on from the first `length` bytes of the file `source` (none: -1), which this upload then owns."""
        self._can_be_kept = False
        self._source = source
        self._to_copy = self.start = length

    def leave_nothing(self) -> None:
        """Leave nothing to resume when it breaks off.

        For strangers: they share one account, and what one of them left is not the next one's to measure or resume.
        """
        self._can_be_kept = False

    def go_on(self, start: int) -> None:
        """Go on in the hidden file itself, from its first `start` bytes."""
        os.ftruncate(self._fd, start)
        os.lseek(self._fd, start, os.SEEK_SET)
        self._size = self.start = start

    def stay_here(self) -> None:
        """Come to nothing when the folder is moved meanwhile: it is a staging, and was published or given up."""
        self._path = os.readlink(f"/proc/self/fd/{self.folder}")

    def expect(self, size: int) -> None:
        """The client has said that `size` bytes come (ALLO). Raises QuotaExceeded when they cannot be taken."""
        self._charge.check(max(size, self.start))

    def add_only(self) -> None:
        """Replace no file, be it one that comes while this is on its way."""
        self._adds_only = True

    def publish(self, *, durable: bool = False) -> None:
        """Put the file under its name. Raises OSError; then the old file is still there and this one is gone.

        `durable`: it is there after a power failure too. That waits for the disk: a thread's work.

        FileExistsError: this one only adds, and the name was taken meanwhile. FileNotFoundError: the staging that it
        belongs to is none any more.

        Replacing takes the longer the bigger the files are: the old one's blocks are freed, and ext4 begins to write
        the new one's.
        """
        folder, target = self._place
        try:
            if self._path and os.readlink(f"/proc/self/fd/{folder}") != self._path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name)
            if durable:
                os.fsync(self._fd)
            if self._checksum is not None:
                self._checksum.end(self._fd, self.size)
            self._close_file()
            with self._charge.settling(self._place, self._size):
                if self._adds_only:
                    # Unlike rename(2), link(2) fails when the name is taken: no moment between check and act.
                    os.link(self._temporary, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                else:
                    os.rename(self._temporary, target, src_dir_fd=folder, dst_dir_fd=folder)
            if self._adds_only:
                with suppress(OSError):  # it is published, and a hidden name too many is swept
                    os.unlink(self._temporary, dir_fd=folder)
            # An earlier interrupted upload of this file is of no use any more.
            with suppress(FileNotFoundError):
                self._charge.tally.unlink(Place(folder, self._part))
            if durable:
                _sync_folder(folder)
        except OSError:
            self.discard()
            raise
        self._finish()

    def keep(self) -> None:
        """Leave what has arrived for the same account to resume.

        Nothing is left when nothing has arrived or nothing shall be kept; nor when it went on from an existing file:
        that one is still there to go on from, and is what the client will measure. Nor when the quota has no room for
        both, this and the file that it was to replace.
        """
        if self.closed:
            return
        if self._checksum is not None:
            self._checksum.give_up()
        folder, _ = self._place
        try:
            if self._size and self._can_be_kept:
                self._close_file()
                with self._charge.settling(Place(folder, self._part), self._size):
                    os.rename(self._temporary, self._part, src_dir_fd=folder, dst_dir_fd=folder)
                self._finish()
                return
        except QuotaExceeded:
            self.discard()
            return
        except OSError:
            self.discard()
            raise
        self.discard()

    def discard(self) -> None:
        """Remove what has arrived."""
        if self.closed:
            return
        if self._checksum is not None:
            self._checksum.give_up()
        with suppress(OSError):
            if self._fd >= 0:
                os.ftruncate(self._fd, 0)  # a checksum may still read it: the disk has its room back at once
            self._close_file()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._place.folder)
        self._charge.release()
        self._finish()

    def close(self) -> None:
        """What pyftpdlib calls when a session ends: there is nobody left to tell of an error."""
        with suppress(OSError):
            self.keep()

    def _close_file(self) -> None:
        if self._fd >= 0:
            opened, self._fd = self._fd, -1
            os.close(opened)

    def _finish(self) -> None:
        self.closed = True
        if self._source >= 0:
            os.close(self._source)
            self._source = -1
        os.close(self._place.folder)


def _sync_folder(folder: int) -> None:
    try:
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except PermissionError:
        os.sync()  # a folder that may be written and not read cannot be opened for this
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
