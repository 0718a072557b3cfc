"""Counting what a folder holds.

Every regular file counts with its size (st_size) under each of its names, the server's own hidden files included;
those are not counted as files. Folders, links and devices weigh nothing. No symbolic link is followed.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

HIDDEN_PREFIX = ".wsp-"  # names of the server's own files
SLICE_ENTRIES = 256  # between two calls of `rest`

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


class Figure(NamedTuple):
    """What a home holds."""

    used_bytes: int
    file_count: int


def weight(name: str, status: os.stat_result) -> Figure:
    """What one name counts for."""
    if not stat.S_ISREG(status.st_mode):
        return Figure(0, 0)
    return Figure(status.st_size, 0 if name.startswith(HIDDEN_PREFIX) else 1)


def count(
    root: int,
    *,
    counts: Callable[[int, str], bool] = lambda folder, name: True,
    rest: Callable[[], None] = lambda: None,
) -> Figure:
    """What lies below the open folder `root`. Raises OSError when that one cannot be read.

    `counts` decides about each hidden file, by the descriptor of its folder and its name. `rest` is called now and
    then, to let others work; what it raises ends the count. Folders below that cannot be read, or that go away
    meanwhile, are passed over.
    """
    used_bytes = file_count = seen = 0
    folders = [""]
    while folders:
        path = folders.pop()
        try:
            folder = _open_folder(root, path)
        except OSError as error:
            if not path or error.errno not in _PASSED_OVER:
                raise
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if not seen % SLICE_ENTRIES:
                        rest()
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/{entry.name}" if path else entry.name)
                        continue
                    try:
                        weighed = weight(entry.name, entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    if entry.name.startswith(HIDDEN_PREFIX) and not counts(folder, entry.name):
                        continue
                    used_bytes += weighed.used_bytes
                    file_count += weighed.file_count
        finally:
            os.close(folder)
    return Figure(used_bytes, file_count)


def real_path(folder: int) -> str:
    """Where an open folder lies now, whatever way it was reached."""
    return os.readlink(f"/proc/self/fd/{folder}")


def _open_folder(root: int, path: str) -> int:
    opened = os.open(path or ".", _FOLDER, dir_fd=root)
    # O_NOFOLLOW is about the last step only. Where a link took the place of an earlier one, this is another folder.
    if path and real_path(opened) != f"{real_path(root).rstrip('/')}/{path}":
        os.close(opened)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return opened
