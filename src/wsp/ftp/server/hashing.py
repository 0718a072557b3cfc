"""Digests of files over FTP: HASH (draft-bryan-ftpext-hash), and the older XCRC, XMD5, XSHA, XSHA1 and XSHA256.

They are computed on threads, and also while a transfer goes on: of the file that this session is uploading, the
digest is that of the bytes that have arrived so far.
"""

import os
import re
import stat
from collections.abc import Callable

from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.digests import ALGORITHMS, digest_of
from wsp.ftp.permissions import Right
from wsp.ftp.server.control import sentence_of
from wsp.ftp.server.files import FileCommands
from wsp.ftp.server.upload import Upload

_RANGE = re.compile(r'(?:"(?P<quoted>[^"]+)"|(?P<plain>.+?))(?: (?P<start>\d{1,19}) (?P<end>\d{1,19}))?')


def _help(name: str, digest: str) -> dict[str, object]:
    return {
        "perm": None,  # the path has to be told from the numbers behind it first
        "auth": True,
        "arg": True,
        "help": f"Syntax: {name} <SP> file-name [<SP> start <SP> end] ({digest} of a file, or of a part of it).",
    }


class HashCommands(FileCommands):
    """A session that tells the digests of files."""

    proto_cmds = {  # noqa: RUF012 - pyftpdlib's name and habit
        **FileCommands.proto_cmds,
        "HASH": {
            "perm": "r",
            "auth": True,
            "arg": True,
            "help": "Syntax: HASH <SP> file-name (digest of a file, by the algorithm that OPTS HASH has chosen).",
        },
        "XCRC": _help("XCRC", "CRC-32"),
        "XMD5": _help("XMD5", "MD5"),
        "XSHA": _help("XSHA", "SHA-1"),
        "XSHA1": _help("XSHA1", "SHA-1"),
        "XSHA256": _help("XSHA256", "SHA-256"),
    }

    # pyftpdlib is untyped: these are its own.
    _extra_feats: list[str]

    _hash_algorithm = "SHA-256"

    def ftp_HASH(self, path: str) -> None:
        algorithm = self._hash_algorithm

        def answer(digest: str, start: int, end: int) -> str:
            return f"213 {algorithm} {start}-{end} {digest} {path}"

        self._digest(algorithm, path, None, answer)

    def ftp_XCRC(self, line: str) -> None:
        self._digest_of_part("CRC32", line)

    def ftp_XMD5(self, line: str) -> None:
        self._digest_of_part("MD5", line)

    def ftp_XSHA(self, line: str) -> None:
        self._digest_of_part("SHA-1", line)

    def ftp_XSHA1(self, line: str) -> None:
        self._digest_of_part("SHA-1", line)

    def ftp_XSHA256(self, line: str) -> None:
        self._digest_of_part("SHA-256", line)

    def ftp_OPTS(self, line: str) -> None:
        command, _, chosen = line.partition(" ")
        if command.upper() != "HASH":
            super().ftp_OPTS(line)
        elif not chosen:
            self.respond(f"200 {self._hash_algorithm}")
        elif chosen.upper() in ALGORITHMS:
            self._hash_algorithm = chosen.upper()
            self.respond(f"200 {self._hash_algorithm}")
        else:
            self.respond(f"501 One of {', '.join(ALGORITHMS)} can be chosen.")

    def ftp_FEAT(self, line: str) -> None:
        marked = (f"{name}*" if name == self._hash_algorithm else name for name in ALGORITHMS)
        others = [feature for feature in self._extra_feats if not feature.startswith(("HASH ", "XCRC", "XMD5", "XSHA"))]
        self._extra_feats = [*others, f"HASH {';'.join(marked)}", "XCRC", "XMD5", "XSHA", "XSHA1", "XSHA256"]
        super().ftp_FEAT(line)

    def _digest_of_part(self, algorithm: str, line: str) -> None:
        match = _RANGE.fullmatch(line)
        if match is None:
            self.respond("501 Say the file, and the first byte and the end of the part, as in XCRC file.zip 0 1024.")
            return
        part = (int(match["start"]), int(match["end"])) if match["start"] is not None else None
        name = match["quoted"] or match["plain"]
        if part is not None and match["quoted"] is None and self._files.lexists(self._files.ftp2fs(line)):
            part, name = None, line  # the numbers belong to the name
        path = self._files.ftp2fs(name)
        if not self.authorizer.has_perm(self.username, "r", path):
            self.respond("550 Not enough privileges.")
            return
        # In capitals, and nothing else: what clients of these commands expect, and ProFTPD says.
        self._digest(algorithm, path, part, lambda digest, _start, _end: f"250 {digest.upper()}")

    def _digest(
        self, algorithm: str, path: str, part: tuple[int, int] | None, answer: Callable[[str, int, int], str]
    ) -> None:
        try:
            opened = self._open_to_hash(path)
        except (OSError, FilesystemError) as error:
            self.respond(f"550 {sentence_of(error)}.")
            return
        size = os.fstat(opened).st_size
        start, end = part if part is not None else (0, size)
        if not start <= end <= size:
            os.close(opened)
            self.respond(f"501 The part has to lie in the {size} bytes of the file.")
            return

        def work() -> Callable[[], None]:
            try:
                digest = digest_of(algorithm, opened, start, end, go_on=lambda: not self.is_ending)
            finally:
                os.close(opened)
            return lambda: self.respond(answer(digest, start, end))

        if not self._work(self.server.digests, work):
            os.close(opened)

    def _open_to_hash(self, path: str) -> int:
        """A descriptor of the file, or of the part of it that this session has uploaded so far."""
        channel = self.data_channel
        running = channel.file_obj if channel is not None and channel.login is self.login else None
        if isinstance(running, Upload) and running.name == path and not running.closed:
            # It may go on from what was there before, so this is reading.
            self._files.jail.require(Right.READ, running.folder, path.rpartition("/")[0] or "/")
            return running.open_arrived()
        opened = self._files.jail.open(path, os.O_RDONLY, Right.READ)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise FilesystemError("Not a file")
        return opened
