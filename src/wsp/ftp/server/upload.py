"""An upload on its way: a hidden file beside its target, published under its name by one rename.

One that may only add is published by link(2) instead, which never replaces what is there.

What an interrupted upload left is kept, hidden, for a while, so that the same account can go on with it. The server
docs (`docs/ftp-files.md`) say what clients see of it, and why.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress

from wsp.ftp.jail import PERMISSION_BITS, RESERVED_PREFIX, Jail, Place
from wsp.ftp.permissions import NotAllowed, Right
from wsp.ftp.server.checksum import Checksum
from wsp.ftp.server.ledger import QuotaExceeded
from wsp.ftp.server.tally import Charge, Tally
from wsp.settings import MEBIBYTE

TEMPORARY_SECONDS = 3600.0  # no running upload leaves its file untouched for so long
NEW_FILE_MODE = 0o666  # less the umask
COPY_CHUNK = 8 * 2**20  # bytes in one copy_file_range(2)
KEY_BYTES = 12
UPLOAD_PREFIX = f"{RESERVED_PREFIX}upload-"
TAKEN = "553 There is a file of that name already, and it may not be replaced."
NOT_RESUMED = "554 Anonymous uploads cannot be resumed: upload the file from the start."

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = re.compile(re.escape(UPLOAD_PREFIX) + r"[0-9a-f]+(\.[0-9a-f]+)?\.(part|tmp)")


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


def begin_upload(jail: Jail, tally: Tally, account: str, path: str) -> Upload:
    """A new upload of a whole file. Raises OSError, UploadRefused, NotAllowed."""
    place, old, may_replace = _take_place(jail, path)
    try:
        upload = _new(jail, place, tally, old, account, path)
    except OSError:
        os.close(place.folder)
        raise
    if not may_replace:
        upload.add_only()
    return upload


def resume_upload(
    jail: Jail, tally: Tally, account: str, path: str, offset: int | None, *, now: float, keep_seconds: float
) -> Upload:
    """An upload that goes on at `offset` bytes (REST), or at the end (`None`: APPE).

    It goes on from what the account's last upload of that name left within `keep_seconds`, if there is something, else
    from the file itself. Raises OSError, UploadRefused, NotAllowed.
    """
    place, old, may_replace = _take_place(jail, path)
    upload = _resume(jail, place, tally, old, account, path, offset, now=now, keep_seconds=keep_seconds)
    if not may_replace:
        upload.add_only()
    return upload


def _resume(
    jail: Jail,
    place: Place,
    tally: Tally,
    old: os.stat_result | None,
    account: str,
    path: str,
    offset: int | None,
    *,
    now: float,
    keep_seconds: float,
) -> Upload:
    try:
        left = _left(place, account, now=now, keep_seconds=keep_seconds)
        if left is not None and old is not None and old.st_ctime > left.st_mtime:
            left = None  # the file was renewed since: what was left is not a part of it
        if left is not None and (old is None or offset == left.st_size):
            return _resume_part(place, tally, old, account, path, left.st_size, offset)
        if left is not None:
            # The client measured the old file, and sends the rest of another one: the result would be a mix of both.
            raise UploadRefused(
                f"554 The last upload of this file broke off after {left.st_size} bytes: "
                "resume there, or upload it from the start."
            )
        size = old.st_size if old is not None else 0
        if offset is not None and offset > size:
            raise UploadRefused(f"554 Cannot resume at {offset} bytes: the file has {size}.")
        return _continue_file(jail, place, tally, old, account, path, size if offset is None else offset)
    except (OSError, UploadRefused):
        os.close(place.folder)
        raise


def resumable_size(jail: Jail, account: str, path: str, *, now: float, keep_seconds: float) -> int | None:
    """The bytes that the account's interrupted upload of that name left, where there is no such file; else None."""
    try:
        place, old, _ = _take_place(jail, path)
    except (OSError, UploadRefused, NotAllowed):
        return None
    try:
        left = _left(place, account, now=now, keep_seconds=keep_seconds)
        return None if left is None or old is not None else left.st_size
    finally:
        os.close(place.folder)


def forget_upload(jail: Jail, tally: Tally, account: str, path: str) -> bool:
    """Remove what the account's interrupted upload of that name left. True: there was something."""
    with jail.parent(path, Right.DELETE) as (folder, name):
        try:
            tally.unlink(Place(folder, _part_name(account, name)))
        except FileNotFoundError:
            return False
        return True


def sweep(unlink: Callable[[Place], None], folder: int, names: list[str], *, now: float, keep_seconds: float) -> None:
    """Remove, of the server's own files among `names`, those that nobody can resume any more."""
    for name in names:
        if _OURS.fullmatch(name):
            keep = keep_seconds if name.endswith(".part") else max(keep_seconds, TEMPORARY_SECONDS)
            with suppress(OSError):
                if now - os.lstat(name, dir_fd=folder).st_mtime > keep:
                    unlink(Place(folder, name))


def remove_leftovers(tally: Tally, folder: int) -> None:
    """Remove every interrupted upload in an open folder that is about to be removed itself."""
    for name in os.listdir(folder):
        if _OURS.fullmatch(name) and name.endswith(".part"):
            tally.unlink(Place(folder, name))


def _part_name(account: str, name: str) -> str:
    # Other accounts, and other names, must not meet: what was left belongs to one account and one name.
    text = f"{account}\0{name}".encode("utf-8", "surrogateescape")
    return f"{UPLOAD_PREFIX}{hashlib.blake2b(text, digest_size=KEY_BYTES).hexdigest()}.part"


def _temporary_name(part: str, token: str) -> str:
    return f"{part.removesuffix('.part')}.{token}{secrets.token_hex(4)}.tmp"


def _take_place(jail: Jail, path: str) -> tuple[Place, os.stat_result | None, bool]:
    """Where the upload goes, the file that is there now, and whether one there may be replaced.

    The caller closes the folder.
    """
    place = jail.target(path)
    try:
        name = place.name
        if name == ".":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UploadRefused("553 File names are UTF-8 here.") from None
        above = path.rpartition("/")[0] or "/"
        may_replace = jail.allows(Right.OVERWRITE, place.folder, above)
        try:
            old = os.lstat(name, dir_fd=place.folder)
        except FileNotFoundError:
            jail.require(Right.WRITE, place.folder, above)
            return place, None, may_replace
        if not may_replace:
            jail.require(Right.WRITE, place.folder, above)  # who may not even write there learns no more than that
            raise UploadRefused(TAKEN)
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(old.st_mode):
            raise UploadRefused("550 There is something that is not a file under this name.")
        # A rename needs no right on the file that it replaces, but the owner of a read-only file means it.
        if not os.access(name, os.W_OK, dir_fd=place.folder, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return place, old, may_replace
    except (OSError, UploadRefused, NotAllowed):
        os.close(place.folder)
        raise


def _new(jail: Jail, place: Place, tally: Tally, old: os.stat_result | None, account: str, path: str) -> Upload:
    part = _part_name(account, place.name)
    temporary = _temporary_name(part, tally.temporary_token())
    opened = os.open(temporary, _CREATE, NEW_FILE_MODE, dir_fd=place.folder)
    if old is not None:
        # The new file takes the place of the old one with its rights, and its owner where that can be done.
        os.fchmod(opened, old.st_mode & PERMISSION_BITS)
        with suppress(OSError):
            os.fchown(opened, old.st_uid, old.st_gid)
    else:
        jail.give(opened)
    upload = Upload(place, temporary, part, opened, path, tally.charge(place.folder, credit=_size(old)))
    upload.replaces = old is not None
    return upload


def _left(place: Place, account: str, *, now: float, keep_seconds: float) -> os.stat_result | None:
    try:
        left = os.lstat(_part_name(account, place.name), dir_fd=place.folder)
    except FileNotFoundError:
        return None
    return left if now - left.st_mtime <= keep_seconds else None


def _resume_part(
    place: Place,
    tally: Tally,
    old: os.stat_result | None,
    account: str,
    path: str,
    size: int,
    offset: int | None,
) -> Upload:
    start = size if offset is None else offset
    if start > size:
        raise UploadRefused(f"554 Cannot resume at {start} bytes: {size} have arrived.")
    part = Place(place.folder, _part_name(account, place.name))
    temporary = _temporary_name(part.name, tally.temporary_token())
    charge = tally.charge(place.folder, credit=_size(old))
    try:
        with charge.taking(part, start):
            # The rename is the claim: of two sessions that resume the same upload, one finds it gone.
            os.rename(part.name, temporary, src_dir_fd=place.folder, dst_dir_fd=place.folder)
        opened = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
    except OSError:
        charge.release()
        raise
    upload = Upload(place, temporary, part.name, opened, path, charge)
    upload.replaces = old is not None
    upload.go_on(start)
    return upload


def _continue_file(
    jail: Jail, place: Place, tally: Tally, old: os.stat_result | None, account: str, path: str, start: int
) -> Upload:
    source = -1
    if start:
        source = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder)
    try:
        upload = _new(jail, place, tally, old, account, path)
    except OSError:
        if source >= 0:
            os.close(source)
        raise
    if old is not None:
        upload.copy_from(source, start)
    return upload


def _size(old: os.stat_result | None) -> int:
    return old.st_size if old is not None else 0
