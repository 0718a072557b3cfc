"""How an upload begins: in a new hidden file, or in what an earlier one left; and what becomes of that otherwise.

What is left belongs to one account and one name. `docs/ftp-files.md` says what clients see of it, and why.
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
from wsp.ftp.server.tally import Tally
from wsp.ftp.server.upload import TAKEN, Upload, UploadRefused

TEMPORARY_SECONDS = 3600.0  # no running upload leaves its file untouched for so long
NEW_FILE_MODE = 0o666  # less the umask
KEY_BYTES = 12
UPLOAD_PREFIX = f"{RESERVED_PREFIX}upload-"
NOT_RESUMED = "554 Anonymous uploads cannot be resumed: upload the file from the start."

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = re.compile(re.escape(UPLOAD_PREFIX) + r"[0-9a-f]+(\.[0-9a-f]+)?\.(part|tmp)")


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
