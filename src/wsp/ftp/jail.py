"""Every file operation of a session, confined to the account's home by the kernel.

Paths are the client's, absolute and normalised (`/a/b`), and are never joined to a path of the machine. Each
operation opens the parent folder beneath the home with openat2(2), RESOLVE_BENEATH, and works relative to that
descriptor. A link that points inside the home is followed; one that leads out raises PermissionError. Where openat2
is missing, or a link is absolute, the path is walked a step at a time with O_NOFOLLOW instead.

A jail can be narrowed to a folder of the home, and one folder can be stood in for by another one beside it (a deploy
that is being prepared). Both are done by name at each operation: who exchanges the folder meets the new one next time.

Where the account has permissions, they are asked between the opening of the folder and what is done in it: about the
folder as the client named it, and about the place where the descriptor really is. A link is no way around a rule. Both
are paths of the account's home, whatever the jail is narrowed to; what is below a stand-in counts as below the folder
that it stands in for.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from wsp.ftp.openat2 import has_openat2, open_beneath
from wsp.ftp.ownership import Owner
from wsp.ftp.permissions import NotAllowed, Permissions, Right

RESERVED_PREFIX = ".wsp-"  # names that belong to the server: for a client they do not exist
FOLDER_MODE = 0o777  # less the umask
PERMISSION_BITS = 0o777
MAX_LINKS = 40  # as in Linux, path_resolution(7)

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Place(NamedTuple):
    """A name in an open folder. The name is one component, or `.` for the folder itself."""

    folder: int
    name: str


class _StandIn(NamedTuple):
    folder: tuple[str, ...]
    instead: tuple[str, ...]


class Jail:
    """The file operations of one session. Owns `root`, a descriptor of the home, until `close()`.

    `home` is the home's path on the machine: what absolute links are measured against. `folder` is the one in the home
    that the jail is narrowed to: the `/` of every path. With `shows_own`, the server's own names exist as well. `owner`
    is whom new files and folders are given to; without one they belong to the user that the server runs as. Every
    method raises OSError, and NotAllowed where `permissions` forbids what it does. With `right=None` nothing is asked
    of them.
    """

    use_openat2 = has_openat2()
    permissions: Callable[[], Permissions | None] = staticmethod(lambda: None)
    """The permissions as they are at the moment; None: everything is allowed."""

    def __init__(
        self, root: int, home: str, folder: str = "/", *, shows_own: bool = False, owner: Owner | None = None
    ) -> None:
        self._shows_own = shows_own
        self._owner = owner
        self._root = root
        self._home = home.rstrip("/")
        self._base = tuple(self._steps(folder))
        self._stand_in: _StandIn | None = None

    def close(self) -> None:
        """Let go of the home. Running transfers have descriptors of their own."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def copy(self) -> "Jail":
        """The same view of the same home, without a stand-in, for a thread of its own. Raises OSError."""
        return self.narrowed("/".join(self._base))

    def narrowed(self, folder: str) -> "Jail":
        """Another view of the same home, narrowed to a folder of it. Raises OSError."""
        return Jail(os.dup(self._root), self._home, folder, owner=self._owner)

    @property
    def is_narrowed(self) -> bool:
        """Whether `/` is a folder of the home, rather than the home."""
        return bool(self._base)

    @property
    def has_stand_in(self) -> bool:
        """Whether one folder is stood in for at present."""
        return self._stand_in is not None

    def stand_in(self, path: str, name: str | None) -> None:
        """Have the folder `name`, one of the server's own beside it, take the place of the folder `path`.

        `None`: `path` is itself again. One folder has a stand-in at a time.
        """
        steps = (*self._base, *self._steps(path))
        self._stand_in = _StandIn(steps, (*steps[:-1], name)) if name is not None else None

    @contextmanager
    def beside(self, path: str) -> Iterator[Place]:
        """The place of the folder `path`, without its stand-in, and open for reading: to exchange it for another.

        The folder that the jail is narrowed to is `/`, and has a place; the home itself has none: PermissionError.
        """
        base, steps = self._base, tuple(self._steps(path))
        if not steps:  # the only one that is not in what is seen
            if not base:
                raise PermissionError(errno.EACCES, "the home itself has no place in the home", path)
            base, steps = (), base
        jail = Jail(os.dup(self._root), self._home, "/".join(base))
        try:
            opened = jail.open_folder("/".join(steps[:-1]), None)
        finally:
            jail.close()
        try:
            yield Place(opened, steps[-1])
        finally:
            os.close(opened)

    @contextmanager
    def parent(self, path: str, right: Right | None = None) -> Iterator[Place]:
        """The place of `path` itself: a link in its last step is not followed."""
        place = self._locate(path, follow=False)
        try:
            self.require(right, place.folder, _above(path))
            yield place
        finally:
            os.close(place.folder)

    def target(self, path: str) -> Place:
        """The place that a new file of that name would take: a link in the last step is followed.

        The caller closes the folder.
        """
        self._refuse_stand_in(path)
        return self._target(path)

    def _target(self, path: str) -> Place:
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
        with self._rooted(path) as (root, steps):
            return self._walk(root, steps, follow=True)

    def open(self, path: str, flags: int, right: Right | None = None) -> int:
        """A descriptor of an existing file or folder, links followed. Never blocks on a FIFO or device."""
        if not flags & os.O_PATH:  # openat2 takes no other flag with that one
            flags |= os.O_NONBLOCK | os.O_NOCTTY
        if right is not None and self._limits is not None:
            place = self._target(path)
            try:
                self.require(right, place.folder, _above(path))
                return os.open(place.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
            finally:
                os.close(place.folder)
        with self._rooted(path) as (root, steps):
            return self._open_beneath(root, steps, flags)

    def open_folder(self, path: str, right: Right | None = Right.LIST) -> int:
        """A descriptor of a folder, for listing it."""
        opened = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.require(right, opened, path)
        except BaseException:
            os.close(opened)
            raise
        return opened

    def stat(self, path: str, right: Right | None = None) -> os.stat_result:
        """stat(2), links followed."""
        opened = self.open(path, os.O_PATH, right)
        try:
            return os.fstat(opened)
        finally:
            os.close(opened)

    def lstat(self, path: str, right: Right | None = None) -> os.stat_result:
        """lstat(2)."""
        with self.parent(path, right) as (folder, name):
            return os.lstat(name, dir_fd=folder)

    def readlink(self, path: str) -> str:
        """The text of a link."""
        with self.parent(path, Right.LIST) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        with self.own(path) as place:
            self.require(Right.WRITE, place.folder, _above(path))
            os.mkdir(place.name, FOLDER_MODE, dir_fd=place.folder)
            if self._owner is not None:
                made = os.open(place.name, _FOLDER | os.O_NOFOLLOW, dir_fd=place.folder)
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
        with self.removable(path) as place:
            os.rmdir(place.name, dir_fd=place.folder)

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits, and those alone."""
        opened = self.open(path, os.O_PATH, Right.WRITE)
        try:
            # fchmod(2) refuses an O_PATH descriptor, and one open for reading needs a right that may be missing.
            os.chmod(f"/proc/self/fd/{opened}", mode & PERMISSION_BITS)
        finally:
            os.close(opened)

    def utime(self, path: str, seconds: float) -> None:
        """Set both times, in seconds since 1970, UTC."""
        opened = self.open(path, os.O_PATH, Right.WRITE)
        try:
            os.utime(f"/proc/self/fd/{opened}", (seconds, seconds))
        finally:
            os.close(opened)

    # Permissions

    @property
    def _limits(self) -> Permissions | None:
        permissions = self.permissions()
        return permissions if permissions is not None and permissions.are_limited else None

    def allows(self, right: Right, folder: int, named: str) -> bool:
        """Whether the account has the right in an open folder that the client named so."""
        limits = self._limits
        return limits is None or (
            limits.allow(right, self.in_home(named)) and limits.allow(right, self._path_of(folder))
        )

    def require(self, right: Right | None, folder: int, named: str) -> None:
        """Raises NotAllowed unless the account has the right in an open folder that the client named so."""
        if right is not None and not self.allows(right, folder, named):
            raise NotAllowed(right, named)

    def require_whole(self, right: Right, place: Place, named: str) -> None:
        """Raises NotAllowed unless the account has the right to what is at the place, with all that is below it."""
        self.require(right, place.folder, _above(named))
        limits = self._limits
        if limits is None:
            return
        real = f"{self._path_of(place.folder)}/{place.name}"
        if not (limits.allow_below(right, self.in_home(named)) and limits.allow_below(right, real)):
            raise NotAllowed(right, named)

    def require_throughout(self, rights: Iterable[Right], path: str) -> None:
        """Raises NotAllowed unless the account has the rights in a folder and in every folder below it.

        A folder that is not there yet is made: that is a question of the one around it. Raises OSError.
        """
        limits = self._limits
        if limits is None:
            return
        with self.beside(path) as place:
            ways = {self.in_home(path), f"{self._path_of(place.folder).rstrip('/')}/{place.name}"}
            for right in rights:
                if not all(limits.allow(right, way) and limits.allow_below(right, way) for way in ways):
                    raise NotAllowed(right, f"all of {path}")
            try:
                os.lstat(place.name, dir_fd=place.folder)
            except FileNotFoundError:
                self.require(Right.WRITE, place.folder, _above(path))

    def _require_move(self, old: Place, source: str, new: Place, target: str) -> None:
        if self._limits is None:
            return
        self.require_whole(Right.DELETE, old, source)
        try:
            os.lstat(new.name, dir_fd=new.folder)
        except FileNotFoundError:
            self.require_whole(Right.WRITE, new, target)
        else:
            self.require_whole(Right.OVERWRITE, new, target)
        if self.allows(Right.READ, new.folder, _above(target)):
            # Moving a file must not be the way to read it.
            self.require_whole(Right.READ, old, source)

    def in_home(self, named: str) -> str:
        """A path of the client as one of the account's home."""
        return f"/{'/'.join(self._base)}{named}" if self._base else named

    def _path_of(self, folder: int) -> str:
        """Where beneath the home an open folder is at the moment."""
        home, here = os.readlink(f"/proc/self/fd/{self._root}"), os.readlink(f"/proc/self/fd/{folder}")
        if here != home and not here.startswith(f"{home}/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), here)  # it was moved away, or removed
        real = here[len(home) :]
        if self._stand_in is not None:
            steps = tuple(step for step in real.split("/") if step)
            shown = self._stand_in.instead
            if steps[: len(shown)] == shown:
                real = "/" + "/".join(self._stand_in.folder + steps[len(shown) :])
        return real or "/"

    # Ways

    def _steps(self, path: str) -> list[str]:
        steps = [step for step in path.split("/") if step]
        if not self._shows_own and any(step.startswith(RESERVED_PREFIX) for step in steps):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return steps

    @contextmanager
    def own(self, path: str) -> Iterator[Place]:
        """The place of a name that is about to be made, moved or removed: the folder that is stood in for is not."""
        self._refuse_stand_in(path)
        with self.parent(path) as place:
            yield place

    @contextmanager
    def removable(self, path: str) -> Iterator[Place]:
        """The place of what is about to be removed, if the account may do that."""
        with self.own(path) as place:
            self.require_whole(Right.DELETE, place, path)
            yield place

    @contextmanager
    def movable(self, source: str, target: str) -> Iterator[tuple[Place, Place]]:
        """The places of a rename that is about to be made, if the account may do that."""
        with self.own(source) as old, self.own(target) as new:
            self._require_move(old, source, new, target)
            yield old, new

    def _refuse_stand_in(self, path: str) -> None:
        # Its name is the server's to give and take: a client would make, or lose, what others are about to publish.
        if self._stand_in is not None and (*self._base, *self._steps(path)) == self._stand_in.folder:
            raise OSError(errno.EBUSY, "this folder is being staged", path)

    @contextmanager
    def _rooted(self, path: str) -> Iterator[tuple[int, list[str]]]:
        """The folder that nothing may leave, and the steps from there to `path`."""
        steps = self._steps(path)
        if not self._base and self._stand_in is None:
            yield self._root, steps
            return
        inner = self._shown((*self._base, *steps))
        base, rest = inner[: len(self._base)], inner[len(self._base) :]
        root = Jail(self._root, self._home)._open_beneath(self._root, list(base), _FOLDER)
        try:
            yield root, list(rest)
        finally:
            os.close(root)

    def _open_beneath(self, root: int, steps: list[str], flags: int) -> int:
        if self.use_openat2:
            try:
                return open_beneath(root, "/".join(steps) or ".", flags)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        place = self._walk(root, steps, follow=True)
        try:
            return os.open(place.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
        finally:
            os.close(place.folder)

    def _locate(self, path: str, *, follow: bool) -> Place:
        try:
            return self._find(path, follow=follow)
        except NotADirectoryError:
            # What is below a file is not there. To say more would tell of files that may not be listed.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None

    def _find(self, path: str, *, follow: bool) -> Place:
        with self._rooted(path) as (root, steps):
            if not steps:
                return Place(os.dup(root), ".")
            if self.use_openat2:
                try:
                    return Place(open_beneath(root, "/".join(steps[:-1]) or ".", _FOLDER), steps[-1])
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
            return self._walk(root, steps, follow=follow)

    def _shown(self, steps: tuple[str, ...]) -> tuple[str, ...]:
        """The steps to where a path of the home leads, with the stand-in in its place."""
        if self._stand_in is not None and steps[: len(self._stand_in.folder)] == self._stand_in.folder:
            return self._stand_in.instead + steps[len(self._stand_in.folder) :]
        return steps

    def _walk(self, root: int, steps: list[str], *, follow: bool) -> Place:
        """Resolve by hand. A folder swapped for a link meanwhile is refused by O_NOFOLLOW."""
        todo = deque(steps)
        folders = [os.dup(root)]
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
        """An absolute link's way from the root of the jail, with the stand-in in its place."""
        if text != self._home and not text.startswith(f"{self._home}/"):
            raise PermissionError(errno.EACCES, "the link leads out of the home", text)
        steps = tuple(step for step in text[len(self._home) :].split("/") if step not in ("", "."))
        if steps[: len(self._base)] != self._base:
            raise PermissionError(errno.EACCES, "the link leads out of the folder", text)
        return "/".join(self._shown(steps)[len(self._base) :])


def _above(path: str) -> str:
    """The folder of a path, in the client's words."""
    return path.rpartition("/")[0] or "/"


def _link_text(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # not a link
            return None
        raise
