"""Every file operation of a session, confined to the account's home by the kernel.

Paths are the client's, absolute and normalised (`/a/b`), and are never joined to a path of the machine. Each
operation opens the parent folder beneath the home with openat2(2), RESOLVE_BENEATH, and works relative to that
descriptor. A link that points inside the home is followed; one that leads out raises PermissionError. Where openat2
is missing, or a link is absolute, the path is walked a step at a time with O_NOFOLLOW instead.
"""

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from wsp.ftp.ownership import Owner

RESERVED_PREFIX = ".wsp-upload-"  # names that belong to the server: for a client they do not exist
FOLDER_MODE = 0o777  # less the umask
PERMISSION_BITS = 0o777
MAX_LINKS = 40  # as in Linux, path_resolution(7)

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RETRIES = 8  # openat2 says EAGAIN when a rename went on elsewhere at the same time


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    for _ in range(_RETRIES):
        opened = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(folder),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return int(opened)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def _has_openat2() -> bool:
    root = os.open("/", _FOLDER)
    try:
        os.close(_openat2(root, ".", _FOLDER))
    except OSError:
        return False  # an old kernel, or a container that forbids what it does not know
    finally:
        os.close(root)
    return True


class Place(NamedTuple):
    """A name in an open folder. The name is one component, or `.` for the folder itself."""

    folder: int
    name: str


class Jail:
    """The file operations of one session. Owns `root`, a descriptor of the home, until `close()`.

    `home` is the home's path on the machine: what absolute links are measured against. `owner` is whom new files and
    folders are given to; without one they belong to the user that the server runs as. Every method raises OSError.
    """

    use_openat2 = _has_openat2()

    def __init__(self, root: int, home: str, owner: Owner | None = None) -> None:
        self._root = root
        self._owner = owner
        self._home = home.rstrip("/")

    def close(self) -> None:
        """Let go of the home. Running transfers have descriptors of their own."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    @contextmanager
    def parent(self, path: str) -> Iterator[Place]:
        """The place of `path` itself: a link in its last step is not followed."""
        place = self._locate(path, follow=False)
        try:
            yield place
        finally:
            os.close(place.folder)

    def target(self, path: str) -> Place:
        """The place that a new file of that name would take: a link in the last step is followed.

        The caller closes the folder.
        """
        place = self._locate(path, follow=False)
        try:
            is_link = stat.S_ISLNK(os.lstat(place.name, dir_fd=place.folder).st_mode)
        except FileNotFoundError:
            return place
        except OSError:
            os.close(place.folder)
            raise
        if not is_link:
            return place
        os.close(place.folder)
        return self._walk(_steps(path), follow=True)

    def open(self, path: str, flags: int) -> int:
        """A descriptor of an existing file or folder, links followed. Never blocks on a FIFO or device."""
        steps = _steps(path)
        if not flags & os.O_PATH:  # openat2 takes no other flag with that one
            flags |= os.O_NONBLOCK | os.O_NOCTTY
        if self.use_openat2:
            try:
                return _openat2(self._root, "/".join(steps) or ".", flags)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        place = self._walk(steps, follow=True)
        try:
            return os.open(place.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
        finally:
            os.close(place.folder)

    def open_folder(self, path: str) -> int:
        """A descriptor of a folder, for listing it."""
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def stat(self, path: str) -> os.stat_result:
        """stat(2), links followed."""
        opened = self.open(path, os.O_PATH)
        try:
            return os.fstat(opened)
        finally:
            os.close(opened)

    def lstat(self, path: str) -> os.stat_result:
        """lstat(2)."""
        with self.parent(path) as (folder, name):
            return os.lstat(name, dir_fd=folder)

    def readlink(self, path: str) -> str:
        """The text of a link."""
        with self.parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        with self.parent(path) as (folder, name):
            os.mkdir(name, FOLDER_MODE, dir_fd=folder)
            if self._owner is not None:
                made = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    # Whoever could put something else there meanwhile must not get it as a present.
                    if os.fstat(made).st_uid == os.geteuid():
                        self.give(made)
                finally:
                    os.close(made)

    def give(self, opened: int) -> None:
        """Have a new file or folder, open in any way, belong to the owner that is set, if one is."""
        if self._owner is not None:
            # fchown(2) refuses an O_PATH descriptor.
            os.chown(f"/proc/self/fd/{opened}", self._owner.uid, self._owner.gid)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        with self.parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def unlink(self, path: str) -> None:
        """Remove a file or link."""
        with self.parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def rename(self, source: str, target: str) -> None:
        """rename(2): a file in the way is replaced."""
        with self.parent(source) as (folder, name), self.parent(target) as (new_folder, new_name):
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits, and those alone."""
        opened = self.open(path, os.O_PATH)
        try:
            # fchmod(2) refuses an O_PATH descriptor, and one open for reading needs a right that may be missing.
            os.chmod(f"/proc/self/fd/{opened}", mode & PERMISSION_BITS)
        finally:
            os.close(opened)

    def utime(self, path: str, seconds: float) -> None:
        """Set both times, in seconds since 1970, UTC."""
        opened = self.open(path, os.O_PATH)
        try:
            os.utime(f"/proc/self/fd/{opened}", (seconds, seconds))
        finally:
            os.close(opened)

    def _locate(self, path: str, *, follow: bool) -> Place:
        steps = _steps(path)
        if not steps:
            return Place(os.dup(self._root), ".")
        if self.use_openat2:
            try:
                return Place(_openat2(self._root, "/".join(steps[:-1]) or ".", _FOLDER), steps[-1])
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        return self._walk(steps, follow=follow)

    def _walk(self, steps: list[str], *, follow: bool) -> Place:
        """Resolve by hand. A folder swapped for a link meanwhile is refused by O_NOFOLLOW."""
        todo = deque(steps)
        folders = [os.dup(self._root)]
        links = 0
        try:
            while todo:
                step = todo.popleft()
                if step == "..":
                    if len(folders) == 1:
                        raise PermissionError(errno.EACCES, "the link leads out of the home", "/".join(steps))
                    os.close(folders.pop())
                    continue
                if not todo and not follow:
                    return Place(folders.pop(), step)
                text = _link_text(folders[-1], step)
                if text is not None:
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/".join(steps))
                    if text.startswith("/"):
                        text = self._beneath(text)
                        while len(folders) > 1:
                            os.close(folders.pop())
                    todo.extendleft(reversed([part for part in text.split("/") if part not in ("", ".")]))
                elif not todo:
                    return Place(folders.pop(), step)
                else:
                    folders.append(os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folders[-1]))
            return Place(folders.pop(), ".")
        finally:
            for folder in folders:
                os.close(folder)

    def _beneath(self, text: str) -> str:
        """The part below the home of an absolute link's text."""
        if text != self._home and not text.startswith(f"{self._home}/"):
            raise PermissionError(errno.EACCES, "the link leads out of the home", text)
        return text[len(self._home) :]


def _link_text(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # not a link
            return None
        raise


def _steps(path: str) -> list[str]:
    steps = [step for step in path.split("/") if step]
    if any(step.startswith(RESERVED_PREFIX) for step in steps):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return steps
