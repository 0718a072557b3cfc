"""Atomic deploys of a folder: it is staged, published by one rename, and its former states can be brought back.

Everything lies beside the folder, under names that clients neither see nor reach: the staging of each account
(`.wsp-staging-…`) and the former states (`.wsp-release-…`). Publishing exchanges two names with renameat2(2), so
whoever reads finds the old site or the new one, never a mixture and never none. What is in the middle of something
(`.wsp-publish-…`, `.wsp-copy-…`, `.wsp-trash-…`) is found and finished, or removed, by whoever comes next.

Callers hand in the time, and run this off any event loop: it waits for locks and for the disk.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from wsp.errors import Conflict, Invalid, NotFound
from wsp.ftp.jail import FOLDER_MODE, RESERVED_PREFIX, Jail, Place
from wsp.ftp.trees import copy_attributes, copy_tree, exchange, remove_tree, rename_new

KEY_BYTES = 8
RELEASE_ID = re.compile(r"\d{8}-\d{6}-\d{3}")

_STAGING = f"{RESERVED_PREFIX}staging-"
_PUBLISH = f"{RESERVED_PREFIX}publish-"
_RELEASE = f"{RESERVED_PREFIX}release-"
_COPY = f"{RESERVED_PREFIX}copy-"
_TRASH = f"{RESERVED_PREFIX}trash-"
_MOMENT = "%Y%m%d-%H%M%S-%f"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Staged:
    """A staging folder that is ready. `name` is for `Jail.stand_in()`; `continued`: it was there already."""

    name: str
    continued: bool
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Release:
    """A former state of the folder, and until when it was the site."""

    id: str
    until: datetime


class Releases:
    """One folder of a home, as one account deploys it. `path` is the client's, absolute and normalised.

    Every method raises OSError when the file system refuses, and Invalid when the folder is not one to deploy.
    """

    def __init__(self, jail: Jail, account: str, path: str) -> None:
        self._jail = jail
        self._path = path
        self._account_key = _key(account)

    def stage(self, *, empty: bool = False, tell: Callable[[int], None] = lambda _: None) -> Staged:
        """Make the staging folder, a copy of the present site or `empty`; or go on with the one that is there.

        `tell` is told of the bytes that are copied, as they are, and stops it by raising something.
        """
        with self._locked() as place:
            staging = self._staging(place.name)
            if _is_there(place, staging):
                return Staged(staging, continued=True)
            if not _is_text(place.name):
                raise Invalid("File names are UTF-8 here", field="folder")
            copying = f"{_COPY}{_key(place.name)}-{self._account_key}-{secrets.token_hex(4)}"
            site = self._open_site(place)
            try:
                os.mkdir(copying, FOLDER_MODE, dir_fd=place.folder)
                made = os.open(copying, _FOLDER, dir_fd=place.folder)
                # Whoever finds it unlocked knows that nobody is at work on it any more.
                fcntl.flock(made, fcntl.LOCK_EX)
            except OSError:
                _close(site)
                raise
        try:
            files = length = 0
            if site < 0:
                self._jail.give(made)
            elif empty:
                copy_attributes(site, made)
            else:
                files, length = copy_tree(site, made, skip=_is_reserved, tell=tell)
            with self._locked() as place:
                try:
                    rename_new(place.folder, copying, staging)
                except FileExistsError:  # another session of the account was faster
                    self._throw_away(place, copying)
                    return Staged(staging, continued=True)
            return Staged(staging, continued=False, files=files, bytes=length)
        except Exception:
            with suppress(OSError), self.beside() as place:
                remove_tree(place.folder, copying)  # at once: it takes room that may be why this failed
            raise
        finally:
            _close(site)
            os.close(made)

    def is_staged(self) -> bool:
        """Whether the account has a staging of this folder."""
        with self._locked() as place:
            return _is_there(place, self._staging(place.name))

    def publish(self, *, now: datetime) -> str:
        """Make the staging the site. The id of the release that the former site became; empty when there was none.

        Raises Conflict when nothing is staged.
        """
        with self._locked() as place:
            staging = self._staging(place.name)
            try:
                found = os.lstat(staging, dir_fd=place.folder)
            except FileNotFoundError:
                raise Conflict(f"Nothing is staged for {self._path} by this account") from None
            # The name says which folder it was: whoever finds it after a crash can tell on which side of the exchange.
            publishing = f"{_PUBLISH}{_key(place.name)}-{self._account_key}-{found.st_ino:x}"
            os.rename(staging, publishing, src_dir_fd=place.folder, dst_dir_fd=place.folder)
            try:
                there_was_one = self._take_place(place, publishing)
            except (OSError, Invalid):
                os.rename(publishing, staging, src_dir_fd=place.folder, dst_dir_fd=place.folder)
                raise
            return self._keep_as_release(place, publishing, now) if there_was_one else ""

    def rollback(self, release: str = "", *, now: datetime) -> tuple[str, str]:
        """Make a former state the site again, the latest when none is named. What was the site becomes a release.

        The ids of both; the second is empty when there was no site. Raises NotFound.
        """
        with self._locked() as place:
            kept = _ids(place)
            if not kept:
                raise NotFound(f"There is no former release of {self._path}")
            chosen = release or kept[-1]
            if chosen not in kept:
                raise NotFound(f"There is no release {chosen} of {self._path}")
            name = _release_name(place.name, chosen)
            there_was_one = self._take_place(place, name)
            return chosen, self._keep_as_release(place, name, now) if there_was_one else ""

    def list(self) -> list[Release]:
        """The former states that are kept, the latest first."""
        with self._locked() as place:
            return [Release(id, _moment(id)) for id in reversed(_ids(place))]

    def discard(self) -> None:
        """Give the staging up. Raises Conflict when nothing is staged."""
        with self._locked() as place:
            try:
                self._throw_away(place, self._staging(place.name))
            except FileNotFoundError:
                raise Conflict(f"Nothing is staged for {self._path} by this account") from None

    def forget(self, release: str = "") -> int:
        """Give up a release, or all of them when none is named; how many. Raises NotFound."""
        with self._locked() as place:
            kept = _ids(place)
            if release and release not in kept:
                raise NotFound(f"There is no release {release} of {self._path}")
            for id in [release] if release else kept:
                self._throw_away(place, _release_name(place.name, id))
            return 1 if release else len(kept)

    def clean(self, *, keep: int) -> None:
        """Remove all releases but the latest `keep`, and whatever was given up. May take long."""
        with self._locked() as place:
            for id in _ids(place)[: -keep or None]:
                self._throw_away(place, _release_name(place.name, id))
        with self.beside() as place:
            for name in os.listdir(place.folder):
                if name.startswith(_TRASH):
                    try:
                        remove_tree(place.folder, name)
                    except FileNotFoundError:
                        continue  # somebody else is at it
                    except OSError as error:
                        logger.warning("%s was not removed: %s", name, error)

    @contextmanager
    def beside(self) -> Iterator[Place]:
        """The folder's place, whether there is such a folder or not."""
        if self._path == "/" and not self._jail.is_narrowed:
            raise Invalid("The home itself cannot be deployed: name a folder in it", field="folder")
        with self._jail.beside(self._path) as place:
            yield place

    @contextmanager
    def _locked(self) -> Iterator[Place]:
        """The folder's place, for one at a time; what a crash left there is put in order first."""
        with self.beside() as place:
            fcntl.flock(place.folder, fcntl.LOCK_EX)  # let go of when it is closed
            self._put_in_order(place)
            yield place

    def _put_in_order(self, place: Place) -> None:
        for name in os.listdir(place.folder):
            if name.startswith(f"{_PUBLISH}{_key(place.name)}-"):
                _, account_key, inode = name.removeprefix(_PUBLISH).split("-")
                found = os.lstat(name, dir_fd=place.folder)
                if found.st_ino != int(inode, 16):  # it is the former site
                    self._keep_as_release(place, name, datetime.fromtimestamp(found.st_ctime, UTC))
                    continue
                try:
                    rename_new(place.folder, name, f"{_STAGING}{_key(place.name)}-{account_key}")
                except FileExistsError:
                    self._throw_away(place, name)
            elif name.startswith(_COPY) and _nobody_works_on(place, name):
                self._throw_away(place, name)

    def _take_place(self, place: Place, name: str) -> bool:
        """Exchange `name` with the site; without a site, rename it. Whether there was one."""
        try:
            site = os.lstat(place.name, dir_fd=place.folder)
        except FileNotFoundError:
            rename_new(place.folder, name, place.name)
            return False
        if not stat.S_ISDIR(site.st_mode):
            raise Invalid(f"{self._path} is not a folder", field="folder")
        exchange(place.folder, name, place.name)
        return True

    def _keep_as_release(self, place: Place, name: str, now: datetime) -> str:
        kept = _ids(place)
        id = _id(now)
        if kept and id <= kept[-1]:  # the clock was set back, or has not moved
            id = _id(_moment(kept[-1]) + timedelta(milliseconds=1))
        rename_new(place.folder, name, _release_name(place.name, id))
        return id

    def _throw_away(self, place: Place, name: str) -> None:
        trash = f"{_TRASH}{secrets.token_hex(8)}"
        os.rename(name, trash, src_dir_fd=place.folder, dst_dir_fd=place.folder)

    def _staging(self, name: str) -> str:
        return f"{_STAGING}{_key(name)}-{self._account_key}"

    def _open_site(self, place: Place) -> int:
        """A descriptor of the present site, or -1 when there is none."""
        try:
            return os.open(place.name, _FOLDER, dir_fd=place.folder)
        except FileNotFoundError:
            return -1
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Invalid(f"{self._path} is not a folder", field="folder") from None
            raise


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).hexdigest()


def _ids(place: Place) -> list[str]:
    """The ids of the kept releases, the latest last."""
    prefix = f"{_RELEASE}{_key(place.name)}-"
    ids = (name.removeprefix(prefix) for name in os.listdir(place.folder) if name.startswith(prefix))
    return sorted(id for id in ids if RELEASE_ID.fullmatch(id))


def _release_name(name: str, id: str) -> str:
    return f"{_RELEASE}{_key(name)}-{id}"


def _id(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_MOMENT)[:-3]


def _moment(id: str) -> datetime:
    return datetime.strptime(id, _MOMENT).replace(tzinfo=UTC)


def _is_reserved(name: str) -> bool:
    return name.startswith(RESERVED_PREFIX)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_there(place: Place, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=place.folder)
    except FileNotFoundError:
        return False
    return True


def _nobody_works_on(place: Place, name: str) -> bool:
    opened = os.open(name, _FOLDER, dir_fd=place.folder)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True


def _close(opened: int) -> None:
    if opened >= 0:
        os.close(opened)
