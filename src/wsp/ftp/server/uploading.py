"""Commands that store files: STOR, APPE, STOU. A long copy of an old file is made off the loop."""

import secrets
from collections.abc import Callable

from pyftpdlib.exceptions import FilesystemError

from wsp.ftp.server.login import LoginChannel
from wsp.ftp.server.tls_data import TlsDataChannel
from wsp.ftp.server.upload import Upload, UploadRefused, failure_reply

INLINE_COPY_BYTES = 2**20  # what is copied on the loop; more goes to a thread


class UploadCommands(LoginChannel):
    """A session that takes files."""

    # pyftpdlib is untyped: these are its own.
    data_channel: TlsDataChannel | None
    _restart_position: int
    _in_dtp_queue: tuple[Upload, str] | None

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
        try:
            upload = begin()
        except UploadRefused as refused:
            self.respond(refused.reply)
            return
        except OSError as error:
            self.respond(failure_reply(error) if error.errno is None else f"550 {sentence_of(error)}.")
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
        self._after_copy(error, upload, command, sentence)
        self._resume()

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


def sentence_of(error: OSError | FilesystemError) -> str:
    """What went wrong, for the client."""
    return error.args[1] if len(error.args) > 1 else str(error)


def _copy(upload: Upload) -> OSError | None:
    try:
        upload.copy()
    except OSError as error:
        return error
    return None
