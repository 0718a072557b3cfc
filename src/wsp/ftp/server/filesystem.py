"""The account's files as pyftpdlib asks for them: its "real" paths are the client's own, and the jail does the work."""

import errno
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from pyftpdlib.filesystems import AbstractedFS, FilesystemError

from wsp.ftp.jail import RESERVED_PREFIX, Jail
from wsp.ftp.permissions import NotAllowed, Permissions, Right
from wsp.ftp.server import beginning
from wsp.ftp.server.tally import Tally
from wsp.ftp.server.upload import Upload, UploadRefused

_UNLISTABLE = ("\r", "\n")  # a name with a line end in it would forge entries of a listing


class Download(io.FileIO):
    """A file being sent, under the name that the client knows."""

    def __init__(self, opened: int, name: str) -> None:
        super().__init__(opened, "rb")
        self.name = name


class JailedFilesystem(AbstractedFS):
    """One session's view. Paths are normalised, absolute and relative to the home: `/` is the home.

    `resumes`: whether an upload can go on where another one broke off. Not for strangers, who share one account.
    """

    def __init__(self, jail: Jail, tally: Tally, account: str, cmd_channel: Any, *, resumes: bool = True) -> None:
        super().__init__("/", cmd_channel)
        self.tally = tally
        self._jail = jail
        jail.permissions = self._permissions
        self._account = account
        self._resumes = resumes
        self._checksums = cmd_channel.server.checksums
        self._leftovers = cmd_channel.server.leftovers

    def _permissions(self) -> Permissions | None:
        permissions: Permissions | None = self.cmd_channel.authorizer  # it is another one when the account changes
        return permissions

    @property
    def jail(self) -> Jail:
        """What the operations are confined by."""
        return self._jail

    def close(self) -> None:
        """Let go of the home."""
        self.tally.close()
        self._jail.close()

    # Paths: nothing to translate, and nothing to check before the operation itself.

    def ftp2fs(self, ftppath: str) -> str:
        return str(self.ftpnorm(ftppath))

    def fs2ftp(self, fspath: str) -> str:
        return fspath

    def validpath(self, path: str) -> bool:
        return True

    def realpath(self, path: str) -> str:
        return path

    # Transfers

    def open(self, filename: str, mode: str) -> Download:
        """Open a file for sending. Raises OSError, FilesystemError."""
        opened = self._jail.open(filename, os.O_RDONLY, Right.READ)
        kind = os.fstat(opened).st_mode
        if not stat.S_ISREG(kind):
            os.close(opened)
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), filename)
            raise FilesystemError("Not a file")
        return Download(opened, filename)

    def begin_upload(self, path: str) -> Upload:
        """Receive a whole file. Raises OSError, UploadRefused, NotAllowed."""
        return self._began(beginning.begin_upload(self._jail, self.tally, self._account, path))

    def resume_upload(self, path: str, offset: int | None) -> Upload:
        """Receive the rest of a file, from `offset` bytes on or from its end. Raises as `begin_upload()`."""
        if not self._resumes:
            raise UploadRefused(beginning.NOT_RESUMED)
        keep_seconds = self._leftovers.keep_seconds
        return self._began(
            beginning.resume_upload(
                self._jail, self.tally, self._account, path, offset, now=time.time(), keep_seconds=keep_seconds
            )
        )

    def _began(self, upload: Upload) -> Upload:
        upload.check_along(self._checksums.begin())
        if not (self._resumes and self._leftovers.keep_seconds):
            upload.leave_nothing()
        if self._jail.has_stand_in:
            upload.stay_here()
        folder = self._jail.in_home(upload.name.rpartition("/")[0])
        self._leftovers.note((self._account, folder, self._jail.has_stand_in), upload.folder)
        return upload

    def resumable_size(self, path: str) -> int | None:
        """How much of an interrupted upload is there to resume, where there is no such file."""
        if not self._resumes:
            return None
        keep_seconds = self._leftovers.keep_seconds
        return beginning.resumable_size(self._jail, self._account, path, now=time.time(), keep_seconds=keep_seconds)

    # Changes

    def chdir(self, path: str) -> None:
        """Go to a folder of the session's own: the process never changes its directory."""
        try:
            os.close(self._jail.open_folder(path, None))
        except (FileNotFoundError, NotADirectoryError):
            # One sentence for both: it must not tell of files that may not be listed.
            raise FilesystemError("No such directory") from None
        self.cwd = path

    def mkdir(self, path: str) -> None:
        _check_new_name(path)
        self._jail.mkdir(path)

    def rmdir(self, path: str) -> None:
        try:
            self._jail.rmdir(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            # What only the server can see must not keep a client from removing a folder.
            folder = self._jail.open_folder(path, None)
            try:
                beginning.remove_leftovers(self.tally, folder)
                names = os.listdir(folder)
            finally:
                os.close(folder)
            if names and all(name.startswith(RESERVED_PREFIX) for name in names):
                raise FilesystemError(
                    "Releases or stagings of a folder that was in it are kept: SITE FORGET and SITE DISCARD remove them"
                ) from None
            self._jail.rmdir(path)

    def remove(self, path: str) -> None:
        leftover = beginning.forget_upload(self._jail, self.tally, self._account, path)
        try:
            with self._jail.removable(path) as place:
                self.tally.unlink(place)
        except FileNotFoundError:
            if not leftover:
                raise

    def check_removable(self, path: str) -> None:
        """Raises NotAllowed when the permissions forbid to move or remove it, OSError when it cannot be found."""
        with self._jail.parent(path) as place:
            self._jail.require_whole(Right.DELETE, place, path)

    def rename(self, src: str, dst: str) -> None:
        _check_new_name(dst)
        with self._jail.movable(src, dst) as (source, target):
            self.tally.rename(source, target)

    def chmod(self, path: str, mode: int) -> None:
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise FilesystemError("Setuid and setgid are not allowed")
        self._jail.chmod(path, mode)

    def set_file_time(self, path: str, seconds: float) -> None:
        """Set both times of a file, in seconds since 1970, UTC. Raises OSError, FilesystemError."""
        self._jail.utime(path, seconds)

    # Looking

    def stat(self, path: str) -> os.stat_result:
        return self._jail.stat(path, Right.LIST)

    def lstat(self, path: str) -> os.stat_result:
        return self._jail.lstat(path, Right.LIST)

    def readlink(self, path: str) -> str:
        return self._jail.readlink(path)

    def isfile(self, path: str) -> bool:
        # Asked by SIZE and MDTM, which say something of what is in the file.
        return self._is(path, stat.S_ISREG, Right.READ)

    def isdir(self, path: str) -> bool:
        # Asked before a listing, which asks for the right itself. Whoever may enter a folder knows that it is one.
        return self._is(path, stat.S_ISDIR, None)

    def _is(self, path: str, kind: Any, right: Right | None) -> bool:
        try:
            return bool(kind(self._jail.stat(path, right).st_mode))
        except OSError:
            return False

    def lexists(self, path: str) -> bool:
        try:
            self._jail.lstat(path)
        except OSError:
            return False
        return True

    def getsize(self, path: str) -> int:
        return self._jail.stat(path, Right.READ).st_size

    def getmtime(self, path: str) -> float:
        return self._jail.stat(path, Right.READ).st_mtime

    def listdir(self, path: str) -> list[str]:
        """The names in a folder, but for the server's own; those of the latter that are too old are removed."""
        folder = self._jail.open_folder(path)
        try:
            names = os.listdir(folder)
            hidden = [name for name in names if name.startswith(RESERVED_PREFIX)]
            if hidden:
                keep_seconds = self._leftovers.keep_seconds
                beginning.sweep(self.tally.unlink, folder, hidden, now=time.time(), keep_seconds=keep_seconds)
                names = [name for name in names if not name.startswith(RESERVED_PREFIX)]
        finally:
            os.close(folder)
        return [name for name in names if not any(end in name for end in _UNLISTABLE)]

    def format_list(self, basedir: str, listing: Iterable[str], ignore_err: bool = True) -> Iterator[bytes]:
        with self._view(basedir) as folder:
            yield from folder.format_list("", listing, ignore_err)

    def format_mlsx(
        self, basedir: str, listing: list[str], perms: str, facts: list[str], ignore_err: bool = True
    ) -> Iterator[bytes]:
        permissions = self._permissions()
        if permissions is not None and permissions.are_limited:
            perms = permissions.letters_in(self._jail.in_home(basedir))
        with self._view(basedir) as folder:
            for entry in folder.format_mlsx("", listing, perms, facts, ignore_err):
                # pyftpdlib writes Python's octal, and clients take `0o644` for 0: files without any right.
                yield entry.replace(b"unix.mode=0o", b"unix.mode=0", 1)

    def _view(self, path: str) -> AbstractContextManager[AbstractedFS]:
        """What tells of the entries of a folder that is being listed."""
        return _Folder(self, path, self._jail.open_folder(path))


class _Folder(AbstractedFS):
    """One open folder: an entry of a listing costs one system call, and the folder stays the same throughout."""

    def __init__(self, whole: JailedFilesystem, path: str, folder: int) -> None:
        super().__init__("/", whole.cmd_channel)
        self._whole = whole
        self._path = path
        self._folder = folder

    def __enter__(self) -> "_Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)

    def lstat(self, path: str) -> os.stat_result:
        if path in ("", "."):
            return os.fstat(self._folder)
        if path.startswith(RESERVED_PREFIX):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return os.lstat(path, dir_fd=self._folder)

    def stat(self, path: str) -> os.stat_result:
        found = self.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            # A link that leads nowhere, out of the home, or to where listing is not allowed is listed as itself.
            with suppress(OSError, NotAllowed):
                return self._whole.stat(os.path.join(self._path, path))
        return found

    def readlink(self, path: str) -> str:
        return os.readlink(path, dir_fd=self._folder)


def _check_new_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise FilesystemError("File names are UTF-8 here") from None
