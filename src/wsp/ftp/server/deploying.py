"""Atomic deploys over FTP, by SITE commands. `wsp.ftp.releases` does the work, on threads."""

import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from wsp.database import utc_now
from wsp.errors import Conflict, WspError
from wsp.ftp.permissions import Right
from wsp.ftp.releases import RELEASE_ID, Releases
from wsp.ftp.server.control import sentence_of
from wsp.ftp.server.hashing import HashCommands
from wsp.ftp.server.ledger import QuotaExceeded
from wsp.ftp.server.tally import Tally
from wsp.ftp.server.uploading import COUNT_POLL_SECONDS, COUNT_WAIT_SECONDS, NOT_COUNTED
from wsp.settings import MEBIBYTE

DEPLOY_LETTERS = "wdf"  # pyftpdlib's, of a session that may store, remove and rename at all
DEPLOY_RIGHTS = (Right.WRITE, Right.DELETE, Right.OVERWRITE)  # a deploy does all of that to everything in the folder
NAME_IT = "501 Name the folder, as in SITE {command} public_html."

logger = logging.getLogger(__name__)


class Left(Exception):
    """The client has left while something was done for it."""


def _help(syntax: str) -> dict[str, object]:
    return {"perm": None, "auth": True, "arg": None, "help": f"Syntax: SITE {syntax}."}


class DeployCommands(HashCommands):
    """A session that can put a folder's new state in the place of the present one, and back."""

    proto_cmds = {  # noqa: RUF012 - pyftpdlib's name and habit
        **HashCommands.proto_cmds,
        "SITE STAGE": _help("STAGE <SP> folder [<SP> EMPTY] (from now on, work on a copy of the folder)"),
        "SITE PUBLISH": _help("PUBLISH [<SP> folder] (make what was staged the folder, in one step)"),
        "SITE DISCARD": _help("DISCARD [<SP> folder] (give up what was staged)"),
        "SITE ROLLBACK": _help("ROLLBACK [<SP> folder] [<SP> release] (bring a former state back)"),
        "SITE RELEASES": _help("RELEASES [<SP> folder] (list the former states that are kept)"),
        "SITE FORGET": _help("FORGET [<SP> folder] [<SP> release] (remove one former state, or all)"),
    }

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self._staged: str | None = None
        super().__init__(conn, server, ioloop)

    def flush_account(self) -> None:
        super().flush_account()
        self._staged = None

    def ftp_SITE_STAGE(self, line: str) -> None:
        folder, _, last = line.rpartition(" ")
        empty = bool(folder) and last.upper() == "EMPTY"
        path = self._deployed(folder if empty else line, "STAGE")
        if path is None:
            return
        if self._staged not in (None, path):
            self.respond(f"503 {self._staged} is staged in this session: publish or discard it first.")
            return
        if self._is_busy():
            return
        tally = self._files.tally

        def work(releases: Releases) -> Callable[[], None]:
            deadline = time.monotonic() + COUNT_WAIT_SECONDS
            while not tally.is_ready:
                if self.is_ending or time.monotonic() > deadline:
                    return lambda: self.respond(NOT_COUNTED)
                time.sleep(COUNT_POLL_SECONDS)
            with releases.beside() as place, tally.copying(place.folder) as charge:

                def tell(count: int) -> None:
                    if self.is_ending:
                        raise Left
                    charge(count)

                staged = releases.stage(empty=empty, tell=tell)

            def then() -> None:
                self._files.jail.stand_in(path, staged.name)
                self._staged = path
                if staged.continued:
                    self.respond(f"200 {path} was staged already: going on with what is there.")
                elif empty:
                    self.respond(f"200 {path} is staged, empty. It stays as it is until SITE PUBLISH.")
                else:
                    self.respond(
                        f"200 {path} is staged, a copy of {staged.files} files, {staged.bytes} bytes. "
                        "It stays as it is until SITE PUBLISH."
                    )

            return then

        self._deploy(path, work)

    def ftp_SITE_PUBLISH(self, line: str) -> None:
        path = self._deployed(line, "PUBLISH")
        if path is None or self._is_busy():
            return

        def work(releases: Releases) -> Callable[[], None]:
            former = releases.publish(now=utc_now())

            def then() -> None:
                self._unstage(path)
                kept = former and self.server.keep_releases
                self.respond(f"250 {path} is published." + (f" Its former state is release {former}." if kept else ""))
                self._clean(path)

            return then

        self._deploy(path, work)

    def ftp_SITE_DISCARD(self, line: str) -> None:
        path = self._deployed(line, "DISCARD")
        if path is None or self._is_busy():
            return

        def work(releases: Releases) -> Callable[[], None]:
            gone = ""
            try:
                releases.discard()
            except Conflict as error:  # another session of the account has published or discarded it
                gone = f"550 {error.sentence}."

            def then() -> None:
                self._unstage(path)
                self.respond(gone or f"250 What was staged for {path} is given up.")
                self._clean(path)

            return then

        self._deploy(path, work)

    def ftp_SITE_ROLLBACK(self, line: str) -> None:
        line, release = _split_release(line)
        path = self._deployed(line, "ROLLBACK")
        if path is None or self._is_busy():
            return

        def work(releases: Releases) -> Callable[[], None]:
            restored, former = releases.rollback(release, now=utc_now())

            def then() -> None:
                kept = former and self.server.keep_releases
                self.respond(
                    f"250 {path} is release {restored} again."
                    + (f" What it was before is release {former}." if kept else "")
                )
                self._clean(path)

            return then

        self._deploy(path, work)

    def ftp_SITE_RELEASES(self, line: str) -> None:
        path = self._deployed(line, "RELEASES", letters="l", rights=(Right.LIST,))
        if path is None:
            return

        def work(releases: Releases) -> Callable[[], None]:
            kept = releases.list()

            def then() -> None:
                self.push(f"211-Releases of {path}, the latest first:\r\n")
                self.push("".join(f" {release.id}\r\n" for release in kept))
                self.respond(f"211 {len(kept)} releases.")

            return then

        self._deploy(path, work)

    def ftp_SITE_FORGET(self, line: str) -> None:
        line, release = _split_release(line)
        path = self._deployed(line, "FORGET")
        if path is None:
            return

        def work(releases: Releases) -> Callable[[], None]:
            count = releases.forget(release)

            def then() -> None:
                self.respond(f"250 {count} releases of {path} are removed.")
                self._clean(path)

            return then

        self._deploy(path, work)

    def _deployed(
        self, folder: str, command: str, *, letters: str = DEPLOY_LETTERS, rights: Iterable[Right] = DEPLOY_RIGHTS
    ) -> str | None:
        """The path of the folder that a command is about; None when it was refused, and answered.

        Raises NotAllowed: putting another folder in its place must not be a way around a rule for something in it.
        """
        if folder:
            path = self._files.ftp2fs(folder)
        elif self._staged is not None:
            path = self._staged
        elif self._files.jail.is_narrowed:
            path = "/"
        else:
            self.respond(NAME_IT.format(command=command))
            return None
        may = all(self.authorizer.has_perm(self.username, letter) for letter in letters)
        if self.login is None or self.login.anonymous or not may:
            self.respond("550 Not enough privileges.")
            return None
        try:
            self._files.jail.require_throughout(rights, path)
        except OSError as error:
            self.respond(f"550 {sentence_of(error)}.")
            return None
        return path

    def _is_busy(self) -> bool:
        """Whether a transfer keeps the folder from being exchanged; then that is answered."""
        channel = self.data_channel
        idle = channel is None or not channel.is_transferring or channel.is_draining
        if self._in_dtp_queue is None and idle:
            return False
        self.respond("503 A transfer is going on: wait for its end.")
        return True

    def _deploy(self, path: str, work: Callable[[Releases], Callable[[], None]]) -> None:
        account, jail = self.login.username if self.login is not None else "", self._files.jail.copy()
        tally = self._files.tally

        def job() -> Callable[[], None]:
            releases = Releases(jail, account, path)
            try:
                return work(releases)
            except QuotaExceeded as error:
                reply = (
                    f"552 Quota exceeded: {error.used / MEBIBYTE:.1f} of {error.limit // MEBIBYTE} MB are used, "
                    "and a copy needs more than is left. SITE STAGE with EMPTY makes none."
                )
                return lambda: self.respond(reply)
            finally:
                _count_again(tally, releases)
                jail.close()

        if not self._work(self.server.copies, job):
            jail.close()

    def _unstage(self, path: str) -> None:
        if self._staged == path:
            self._files.jail.stand_in(path, None)
            self._staged = None

    def _clean(self, path: str) -> None:
        """Remove what was given up, after the reply; what stays is removed after the next deploy."""
        account, jail = self.login.username if self.login is not None else "", self._files.jail.copy()
        tally, keep = self._files.tally, self.server.keep_releases

        def job() -> Callable[[], None]:
            releases = Releases(jail, account, path)
            try:
                releases.clean(keep=keep)
            except OSError as error:
                logger.warning("old releases of %s were not removed: %s", path, error)
            finally:
                _count_again(tally, releases)
                jail.close()
            return lambda: None

        if not self.server.copies.submit(job):
            jail.close()


def _count_again(tally: Tally, releases: Releases) -> None:
    """A deploy changes what the home holds by whole folders."""
    with suppress(OSError, WspError), releases.beside() as place:
        tally.count_again(place)


def _split_release(line: str) -> tuple[str, str]:
    """A folder, and a release of it, where a command names them."""
    folder, _, last = line.rpartition(" ")
    return (folder, last) if RELEASE_ID.fullmatch(last) else (line, "")
