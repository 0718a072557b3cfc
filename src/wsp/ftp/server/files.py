"""Commands about files and folders that pyftpdlib does not do as they are done here."""

import re
from datetime import UTC, datetime

from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.server.uploading import UploadCommands, sentence_of

_MFMT_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)


class FileCommands(UploadCommands):
    """A session that looks at files and changes what is known of them."""

    def ftp_CWD(self, path: str) -> None:
        # pyftpdlib's asks for the process's directory, and puts it back: here it never changes.
        try:
            self._files.chdir(path)
        except OSError as error:
            self.respond(f"550 {sentence_of(error)}.")
        else:
            self.respond(f'250 "{self._files.cwd}" is the current directory.')

    def ftp_MFMT(self, path: str, timeval: str) -> None:
        """Set a file's time, in UTC (draft-somers-ftp-mfxx). Mirroring clients send it after every upload."""
        match = _MFMT_TIME.fullmatch(timeval)
        try:
            if match is None:
                raise ValueError
            # The pattern has six groups of digits; the type checker counts neither.
            seconds = datetime(*(int(part) for part in match.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
        except ValueError:
            self.respond("501 The time has to be YYYYMMDDHHMMSS.")
            return
        try:
            self._files.set_file_time(path, seconds)
        except (OSError, FilesystemError) as error:
            self.respond(f"550 {sentence_of(error)}.")
        else:
            self.respond(f"213 Modify={timeval}; {path}")

    def ftp_MLSD(self, path: str) -> None:
        # pyftpdlib says 501 to every path that is no folder, but that is for what is there and is something else
        # (RFC 3659, 7.2.1). rclone takes 550, and only that, for a folder that it may make.
        if self._files.lexists(path):
            super().ftp_MLSD(path)
        else:
            self.respond("550 No such directory.")

    def ftp_SIZE(self, path: str) -> None:
        if self._current_type == "i":
            left = self._files.resumable_size(path)
            if left is not None:
                self.respond(f"213 {left}")
                return
        super().ftp_SIZE(path)
