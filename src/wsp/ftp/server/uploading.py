"""Commands that store files: STOR, APPE, STOU, ALLO. A long copy of an old file is made off the loop."""

import re
import secrets
import time
from collections.abc import Callable

from wsp.ftp.permissions import NotAllowed
from wsp.ftp.server.control import sentence_of
from wsp.ftp.server.ledger import QuotaExceeded
from wsp.ftp.server.login import LoginChannel
from wsp.ftp.server.tls_data import TlsDataChannel
from wsp.ftp.server.upload import Upload, UploadRefused, failure_reply
from wsp.settings import MEBIBYTE

INLINE_COPY_BYTES = 2**20  # what is copied on the loop; more goes to a thread
COUNT_WAIT_SECONDS = 25.0  # how long an upload waits for the first count of a home with a quota
COUNT_POLL_SECONDS = 0.02

NOT_COUNTED = "450 The files of this account are being counted for the first time, try again shortly."

_ALLO = re.compile(r"(\d{1,18})( +R +\d{1,18})?", re.ASCII | re.IGNORECASE)


class UploadCommands(LoginChannel):
    """A session that takes files."""

    # pyftpdlib is untyped: these are its own.
    data_channel: TlsDataChannel | None
    _restart_position: int
    _in_dtp_queue: tuple[Upload, str] | None
    _allocated = 0  # bytes that the client has announced for its next upload

    def ftp_ALLO(self, line: str) -> None:
        """How long the next upload will be (RFC 959): one that cannot fit into the quota is refused at once."""
        match = _ALLO.fullmatch(line)
        if match is None:
            self.respond("501 Say how many bytes, as in ALLO 1000.")
            return
        size, limit = int(match[1]), self._files.tally.limit
        if not limit:
            self.respond("202 There is no quota here.")
        elif size > limit:
            # Not compared with what is used: the upload may replace a file, and the client has not said which.
            self.respond(f"552 Quota exceeded: {limit // MEBIBYTE} MB are allowed, and this upload needs more.")
        else:
            self._allocated = size
            self.respond("200 The upload to come will be held to that.")

    def ftp_STOR(self, file: str, mode: str = "w") -> None:
        offset, self._restart_position = self._restart_position, 0
        if mode == "a":
            self._receive("APPE", lambda: self._files.resume_upload(file, None))
        elif offset:
            self._receive("STOR", lambda: self._files.resume_upload(file, offset))
        else:
            self._receive("STOR", lambda: self._files.begin_upload(file))

    def ftp_STOU(self, line: str) -> None:
        if self._restart_position:
            self.respond("450 Can't STOU while REST request is pending.")
            return
        if not self.authorizer.has_perm(self.username, "w"):
            self.respond("550 Not enough privileges.")
            return
        path = f"{self._files.ftp2fs(line or 'ftpd')}.{secrets.token_hex(4)}"
        if self._files.lexists(path):
            self.respond("450 No usable unique file name found.")
            return
        self._receive("STOU", lambda: self._files.begin_upload(path), f"FILE: {path.rpartition('/')[2]}")

    def _receive(self, command: str, begin: Callable[[], Upload], sentence: str = "Send the file.") -> None:
        if self._files.tally.is_ready:
            self._begin(command, begin, sentence)
        else:
            self._pause()
            self._begin_when_counted(time.monotonic() + COUNT_WAIT_SECONDS, command, begin, sentence)

    def _begin_when_counted(self, deadline: float, command: str, begin: Callable[[], Upload], sentence: str) -> None:
        if self.is_ending:
            return
        is_ready = self._files.tally.is_ready
        if not is_ready and time.monotonic() < deadline:
            self.call_later(COUNT_POLL_SECONDS, self._begin_when_counted, deadline, command, begin, sentence)
            return
        self._paused = False
        if is_ready:
            self._begin(command, begin, sentence)
        else:
            self.respond(NOT_COUNTED)
        if not self._paused:  # it pauses again for a long copy
            self._resume()

    def _begin(self, command: str, begin: Callable[[], Upload], sentence: str) -> None:
        expected, self._allocated = self._allocated, 0
        try:
            upload = begin()
        except UploadRefused as refused:
            self.respond(refused.reply)
            return
        except NotAllowed as refused:
            self.respond(f"550 {refused}.")
            return
        except OSError as error:
            self.respond(failure_reply(error) if error.errno is None else f"550 {sentence_of(error)}.")
            return
        try:
            upload.expect(expected)
        except QuotaExceeded as error:
            upload.keep()
            self.respond(failure_reply(error))
            return
        if upload.bytes_to_copy <= INLINE_COPY_BYTES:
            self._after_copy(_copy(upload), upload, command, sentence)
            return
        self._pause()

        def copy() -> Callable[[], None]:
            error = _copy(upload)
            return lambda: self._after_long_copy(error, upload, command, sentence)

        if not self.server.copies.submit(copy):
            upload.discard()
            self.respond("450 Too many files are being continued at the moment, try again shortly.")
            self._resume()

    def _after_long_copy(self, error: OSError | None, upload: Upload, command: str, sentence: str) -> None:
        if self.is_ending:
            upload.discard()
            return
        if not self._may_transfer(command, upload):  # any more
            upload.discard()
            self.respond("550 Not enough privileges.")
            self._resume()
            return
        self._after_copy(error, upload, command, sentence)
        self._resume()

    def _may_transfer(self, command: str, upload: Upload) -> bool:
        login = self.login
        return login is not None and self.authorizer.allow_transfer(
            command, login.path_of(upload.name), replaces=upload.replaces
        )

    def _after_copy(self, error: OSError | None, upload: Upload, command: str, sentence: str) -> None:
        if error is not None:
            upload.discard()
            self.respond(failure_reply(error))
        elif self.data_channel is not None:
            self.respond(f"125 {sentence}")
            self.data_channel.file_obj = upload
            self.data_channel.enable_receiving(self._current_type, command)
        else:
            self.respond(f"150 {sentence}")
            self._in_dtp_queue = (upload, command)


def _copy(upload: Upload) -> OSError | None:
    try:
        upload.copy()
    except OSError as error:
        return error
    return None
