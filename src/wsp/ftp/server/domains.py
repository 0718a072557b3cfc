"""The folder that lists the domains of anonymous access, when nothing says which one a stranger wants."""

import errno
import os
import stat
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pyftpdlib.filesystems import AbstractedFS

from wsp.ftp.jail import Jail, Place
from wsp.ftp.permissions import Right
from wsp.ftp.server.filesystem import JailedFilesystem
from wsp.homes import home_path, open_home


class DomainJails(Jail):
    """A jail for each domain, chosen by the first step of a path; `/` itself is no folder of the machine.

    A path never leaves the jail that its first step chose: what comes behind that is a path of that jail alone, and
    links are followed in there. For reading only: the permissions have to see to that.
    """

    def __init__(self, files_root: Path, homes: dict[str, str]) -> None:
        """`homes` has the home of each domain, in the panel's name space. One is open at a time."""
        super().__init__(-1, "/")
        self._files_root = files_root
        self._homes = homes
        self._visited: tuple[str, Jail] | None = None
        self._made_at = time.time()

    def close(self) -> None:
        if self._visited is not None:
            self._visited[1].close()
            self._visited = None

    @property
    def domains(self) -> list[str]:
        """The names in `/`."""
        return list(self._homes)

    def open(self, path: str, flags: int, right: Right | None = None) -> int:
        jail, rest = self._choose(path)
        return jail.open(rest, flags, right)

    def open_folder(self, path: str, right: Right | None = Right.LIST) -> int:
        jail, rest = self._choose(path)
        return jail.open_folder(rest, right)

    def stat(self, path: str, right: Right | None = None) -> os.stat_result:
        return self._stat_of_root() if path == "/" else super().stat(path, right)

    def lstat(self, path: str, right: Right | None = None) -> os.stat_result:
        if path == "/":
            return self._stat_of_root()
        jail, rest = self._choose(path)
        return jail.lstat(rest, right)

    def readlink(self, path: str) -> str:
        jail, rest = self._choose(path)
        return jail.readlink(rest)

    def target(self, path: str) -> Place:
        jail, rest = self._choose(path)
        return jail.target(rest)

    def _locate(self, path: str, *, follow: bool) -> Place:
        jail, rest = self._choose(path)
        return jail._locate(rest, follow=follow)

    def _choose(self, path: str) -> tuple[Jail, str]:
        """The jail that a path leads to, and the rest of the path, as seen from in there."""
        domain, _, rest = path.lstrip("/").partition("/")
        if not domain:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if domain not in self._homes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if self._visited is None or self._visited[0] != domain:
            home = self._homes[domain]
            jail = Jail(open_home(self._files_root, home), os.fspath(home_path(self._files_root, home)))
            jail.permissions = self.permissions
            self.close()
            self._visited = domain, jail
        return self._visited[1], f"/{rest}"

    def _stat_of_root(self) -> os.stat_result:
        return os.stat_result((stat.S_IFDIR | 0o555, 0, 0, 2, 0, 0, 0, *[int(self._made_at)] * 3))


class DomainsFilesystem(JailedFilesystem):
    """The view of a session that is in no domain yet."""

    _jail: DomainJails

    def chdir(self, path: str) -> None:
        if path == "/":
            self.cwd = path
        else:
            super().chdir(path)

    def listdir(self, path: str) -> list[str]:
        return self._jail.domains if path == "/" else super().listdir(path)

    def _view(self, path: str) -> AbstractContextManager[AbstractedFS]:
        return nullcontext(_Root(self)) if path == "/" else super()._view(path)


class _Root(AbstractedFS):
    """The domains, for a listing of `/`."""

    def __init__(self, whole: DomainsFilesystem) -> None:
        super().__init__("/", whole.cmd_channel)
        self._whole = whole

    def lstat(self, path: str) -> os.stat_result:
        return self._whole.lstat(f"/{path}")

    stat = lstat
