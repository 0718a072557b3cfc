"""Commands about files and folders that pyftpdlib does not do as they are done here."""

import re
from contextlib import suppress
from datetime import UTC, datetime

from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.server.control import sentence_of
from wsp.ftp.server.uploading import UploadCommands

_MFMT_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)
_UTIME_TIME_FIRST = re.compile(r"(?P<time>\d{12}(?:\d\d)?) (?P<path>.+)", re.ASCII)
_UTIME_PATH_FIRST = re.compile(r"(?P<path>.+) \d{14} (?P<time>\d{14}) \d{14} UTC", re.ASCII)
SECONDS_DIGITS = 14  # of a time with its seconds


class FileCommands(UploadCommands):
    """A session that looks at files and changes what is known of them."""

    proto_cmds = UploadCommands.proto_cmds | {
        "SITE UTIME": {
            "perm": None,
            "auth": True,
            "arg": True,
            "help": "Syntax: SITE UTIME <SP> time <SP> path (set a file's time).",
        },
        "LANG": {
            "perm": None,
            "auth": False,
            "arg": None,
            "help": "Syntax: LANG [<SP> language] (of the replies: English).",
        },
    }

    def ftp_CWD(self, path: str) -> None:
        # pyftpdlib's asks for the process's directory, and puts it back: here it never changes.
        try:
            self._files.chdir(path)
        except (OSError, FilesystemError) as error:
            self.respond(f"550 {sentence_of(error)}.")
        else:
            self.respond(f'250 "{self._files.cwd}" is the current directory.')

    def ftp_LANG(self, language: str) -> None:
        """The language of the replies (RFC 2640, 4.1)."""
        if language.lower().partition("-")[0] in ("", "en"):
            self.respond("200 Replies are in English.")
        else:
            self.respond("504 Replies are in English only.")

    def ftp_MFMT(self, path: str, timeval: str) -> None:
        """Set a file's time, in UTC (draft-somers-ftp-mfxx). Mirroring clients send it after every upload."""
        if self._set_time(path, timeval):
            self.respond(f"213 Modify={timeval}; {path}")

    def _set_time(self, path: str, timeval: str) -> bool:
        """False: it was not set, and the client has been told why."""
        match = _MFMT_TIME.fullmatch(timeval)
        try:
            if match is None:
                raise ValueError
            # The pattern has six groups of digits; the type checker counts neither.
            seconds = datetime(*(int(part) for part in match.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
        except ValueError:
            self.respond("501 The time has to be YYYYMMDDHHMMSS.")
            return False
        try:
            self._files.set_file_time(path, seconds)
        except (OSError, FilesystemError) as error:
            self.respond(f"550 {sentence_of(error)}.")
            return False
        return True

    def ftp_SITE_UTIME(self, line: str) -> None:
        """Set a file's time, in UTC, in either of the forms that clients use where there is no MFMT."""
        match = _UTIME_TIME_FIRST.fullmatch(line) or _UTIME_PATH_FIRST.fullmatch(line)
        if match is None:
            self.respond("501 The form is: SITE UTIME YYYYMMDDHHMM[SS] path, or path, access, change, creation, UTC.")
            return
        path = self._files.ftp2fs(match["path"])
        if not self.authorizer.has_perm(self.username, "T", path):
            self.respond("550 Not enough privileges.")
        elif self._set_time(path, match["time"].ljust(SECONDS_DIGITS, "0")):
            self.respond("200 The time was set.")

    def ftp_MLSD(self, path: str) -> None:
        # pyftpdlib says 501 to every path that is no folder, but that is for what is there and is something else
        # (RFC 3659, 7.2.1). rclone takes 550, and only that, for a folder that it may make.
        if not self._files.isdir(path):
            try:
                self._files.lstat(path)
            except OSError:
                self.respond("550 No such directory.")
                return
        super().ftp_MLSD(path)

    def ftp_RNFR(self, path: str) -> None:
        with suppress(OSError):  # there is no such file: pyftpdlib says so
            self._files.check_removable(path)
        super().ftp_RNFR(path)

    def ftp_SIZE(self, path: str) -> None:
        if self._current_type == "i":
            left = self._files.resumable_size(path)
            if left is not None:
                self.respond(f"213 {left}")
                return
        super().ftp_SIZE(path)
