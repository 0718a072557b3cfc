"""Whole folders: a true copy of one, its removal, an exchange of two. All work on descriptors, and follow no link."""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

COPY_CHUNK = 8 * 2**20  # bytes in one copy_file_range(2)
MAX_DEPTH = 200  # folders within folders that are copied: two descriptors each are held open

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOREPLACE = 1  # flags of renameat2(2)
_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS)
_NO_RANGES = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


_libc = ctypes.CDLL(None, use_errno=True)


def exchange(folder: int, one: str, other: str) -> None:
    """Have two names in an open folder change places, in one step for everybody. Raises OSError."""
    try:
        _rename(folder, one, other, _EXCHANGE)
    except OSError as error:
        if error.errno in _CANNOT_EXCHANGE:
            raise OSError(error.errno, "the file system cannot exchange two folders in one step") from error
        raise


def rename_new(folder: int, old: str, new: str) -> None:
    """rename(2) that replaces nothing: FileExistsError where there is something. Raises OSError."""
    _rename(folder, old, new, _NOREPLACE)


def copy_tree(
    source: int, target: int, *, skip: Callable[[str], bool], tell: Callable[[int], None], depth: int = 0
) -> tuple[int, int]:
    """Copy what is in one open folder into another one; the number of files, and of their bytes.

    Blocks are shared where the file system can (copy_file_range), never by hard links: changing the copy must not
    change the original. Rights, times, extended attributes (which hold ACLs) and, where the server may, owners are
    kept; links stay links. FIFOs, sockets and devices are not copied, nor what vanishes meanwhile.

    `skip` says by its name what is left out. `tell` is told of the bytes that have been copied since it was last
    called, often, and stops the copy by raising something. Raises OSError.
    """
    if depth > MAX_DEPTH:
        raise OSError(errno.ELOOP, "there are too many folders within folders")
    files = copied = 0
    for name in os.listdir(source):
        tell(0)
        if skip(name):
            continue
        try:
            found = os.lstat(name, dir_fd=source)
            if stat.S_ISREG(found.st_mode):
                copied += _copy_file(source, target, name, tell)
                files += 1
            elif stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISDIR(found.st_mode):
                inner = _copy_folder(source, target, name, skip=skip, tell=tell, depth=depth)
                files, copied = files + inner[0], copied + inner[1]
        except FileNotFoundError:
            continue
    copy_attributes(source, target)
    return files, copied


def copy_attributes(source: int, target: int) -> None:
    """Give one open file or folder what another one has besides its content. Raises OSError."""
    found = os.fstat(source)
    mode = stat.S_IMODE(found.st_mode)
    try:
        os.fchown(target, found.st_uid, found.st_gid)
    except PermissionError:
        if stat.S_ISREG(found.st_mode):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # else somebody else's program would run as the server
    with suppress(OSError):  # not every file system has them, and some of them are the kernel's
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, mode)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def remove_tree(folder: int, name: str) -> None:
    """Remove a folder and all that is in it, or a file. Raises OSError."""
    try:
        shutil.rmtree(name, dir_fd=folder)
    except NotADirectoryError:
        os.unlink(name, dir_fd=folder)


def _rename(folder: int, old: str, new: str, flag: int) -> None:
    if _libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), flag):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old)


def _copy_folder(
    source: int, target: int, name: str, *, skip: Callable[[str], bool], tell: Callable[[int], None], depth: int
) -> tuple[int, int]:
    opened = os.open(name, _FOLDER, dir_fd=source)
    try:
        os.mkdir(name, 0o700, dir_fd=target)
        made = os.open(name, _FOLDER, dir_fd=target)
        try:
            return copy_tree(opened, made, skip=skip, tell=tell, depth=depth + 1)
        finally:
            os.close(made)
    finally:
        os.close(opened)


def _copy_file(source: int, target: int, name: str, tell: Callable[[int], None]) -> int:
    opened = os.open(name, _READ, dir_fd=source)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return 0  # it was exchanged for something else meanwhile
        made = os.open(name, _CREATE, 0o600, dir_fd=target)
        try:
            length = _copy_content(opened, made, tell)
            copy_attributes(opened, made)
            return length
        finally:
            os.close(made)
    finally:
        os.close(opened)


def _copy_content(source: int, target: int, tell: Callable[[int], None]) -> int:
    length = 0
    in_kernel = True
    while True:
        try:
            # sendfile(2) where the file system has no ranges: it goes through the page cache.
            step = (
                os.copy_file_range(source, target, COPY_CHUNK)
                if in_kernel
                else os.sendfile(target, source, length, COPY_CHUNK)
            )
        except OSError as error:
            if not in_kernel or error.errno not in _NO_RANGES:
                raise
            in_kernel = False
            continue
        if not step:
            return length
        length += step
        tell(step)
