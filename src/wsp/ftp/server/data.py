"""The data channel: what it does differently from pyftpdlib's.

An upload is published before its 226, and only when it is whole; a disk that is full answers 552 rather than a reset.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from pyftpdlib.exceptions import _FileReadWriteError, _RetryError
from pyftpdlib.ioloop import _ERRNOS_DISCONNECTED, _ERRNOS_RETRY, timer

from wsp.ftp.permissions import NotAllowed
from wsp.ftp.server.sending import SendingChannel
from wsp.ftp.server.upload import Upload, failure_reply

RECEIVE_BYTES = 512 * 1024
DRAIN_SECONDS = 5.0  # how long a refused upload is read on, so that the client gets to read why
DRAIN_BYTES = 256 * 2**20

SLOW_PUBLISH_BYTES = 8 * 2**20  # an old file is replaced on a thread from here on

MIN_GRACE_SECONDS = 0.02
MAX_GRACE_SECONDS = 0.25
GRACE_SHARE = 0.02  # of the time that the transfer took
SILENCE_SECONDS = 0.05  # between the last data and the end of a data connection: unusual, when all is well
ONE_PIECE_BYTES = 64 * 1024  # what clients write at once

ABORTED = "426 The data connection broke off, the upload was not stored."
BROKE_OFF = "426 The data connection broke off."
FAILED = "451 The server failed in the middle of the transfer."

logger = logging.getLogger(__name__)


class DataChannel(SendingChannel):
    """One transfer in clear text."""

    # One buffer serves every transfer of the process: there is one loop, and what is read is written at once.
    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    fsync = False  # a setting of the server: uploads are on the disk before they are confirmed

    # pyftpdlib is untyped: these are its own.
    transfer_finished: bool
    file_obj: Any
    _had_cr: bool
    _resp: tuple[Any, ...]

    def __init__(self, sock: Any, cmd_channel: Any) -> None:
        self._broken = False
        self._publishing = False
        self._last_chunk_at = timer()
        self._told_whole = False  # by TLS's own farewell
        self._at_end = False  # of what the client sends
        self._draining = 0
        self.reason = ""
        """Why the transfer fails, when that is not what the client is told at its end."""
        self._reported = False
        super().__init__(sock, cmd_channel)

    def __repr__(self) -> str:
        return f"<DataChannel of {self.cmd_channel!r}>"

    @property
    def is_transferring(self) -> bool:
        """Whether a command has put this channel to use."""
        return bool(self._initialized)

    @property
    def is_draining(self) -> bool:
        """Whether the transfer has failed, the client was told, and what it still sends is thrown away."""
        return bool(self._draining)

    def transfer_in_progress(self) -> bool:
        """pyftpdlib's holds one of which no byte has come yet for none, and drops it without a reply."""
        return self.is_transferring

    @property
    def is_protected(self) -> bool:
        """Whether this goes over TLS."""
        return False

    def readable(self) -> bool:
        if not self._initialized:
            # Data before its command: leave it in the socket, and do not ask again until the command is there.
            self.modify_ioloop_events(0)
            return False
        return bool(self.receive)

    def enable_receiving(self, type: str, cmd: str) -> None:
        super().enable_receiving(type, cmd)
        self.must_wait()

    def handle_read(self) -> None:
        try:
            chunk = self._receive(self.budget(RECEIVE_BYTES))
        except _RetryError:
            return
        if chunk:
            self._take(chunk)
        if self._at_end:
            self.handle_close()

    def _take(self, chunk: Any) -> None:
        if self._draining:
            self._draining -= len(chunk)
            if self._draining <= 0:
                self.close()
            return
        self.tot_bytes_received += len(chunk)
        self._last_chunk_at = timer()
        try:
            self.file_obj.write(self._data_wrapper(bytes(chunk)) if self._data_wrapper is not None else chunk)
        except OSError as error:
            self._refuse_rest(error)
        else:
            self.pay(len(chunk))

    handle_read_event = handle_read  # as pyftpdlib does, to spare a call per event

    def _receive(self, most: int) -> Any:
        """At most that many bytes, valid until the next call. Sets `_at_end` when no more will come."""
        try:
            count = self.socket.recv_into(self._buffer, most)
        except OSError as error:
            if error.errno in _ERRNOS_RETRY:
                raise _RetryError from error
            if error.errno not in _ERRNOS_DISCONNECTED:
                raise
            self._broken = True
            count = 0
        self._at_end = not count
        return self._buffer[:count]

    def _refuse_rest(self, error: OSError) -> None:
        """Tell the client at once, then read on for a while: closing with unread data would reset the connection."""
        self.reason = self._failed(self.file_obj, error)
        self._drain(self.reason)

    def _drain(self, reply: str) -> None:
        self.cmd_channel.respond(reply)
        self._draining = DRAIN_BYTES
        self.call_later(DRAIN_SECONDS, self.close)

    def handle_close(self) -> None:
        if self._closed:
            return
        if not self._initialized or self._draining:
            self.close()
        elif not self.receive:
            super().handle_close()
        else:
            self._end_of_upload()

    def _end_of_upload(self) -> None:
        """Is the upload whole? A client that was killed closes its data connection as one that has finished does.

        In clear text only the control connection tells them apart, and its end may arrive a little later than that
        of the data connection. So there is a pause, in proportion to the transfer, and the longest one when the end
        did not come right after the data. What a client sends in one piece does not wait.
        """
        silence = timer() - max(self._last_chunk_at, self._went_on_at)
        if silence > SILENCE_SECONDS:
            grace = MAX_GRACE_SECONDS
        elif self.tot_bytes_received > ONE_PIECE_BYTES:
            grace = min(MAX_GRACE_SECONDS, max(MIN_GRACE_SECONDS, self.get_elapsed_time() * GRACE_SHARE))
        else:
            grace = 0.0
        if self._broken or self._told_whole or not grace:
            self._conclude()
        else:
            self.halt()
            self.call_later(grace, self._conclude)

    def _conclude(self) -> None:
        if self._closed:
            return
        if self._broken or self.cmd_channel.peer_is_gone():
            self._resp = (ABORTED, logger.info)
            self.close()
        elif self.fsync or (self.file_obj.replaces and self.tot_bytes_received >= SLOW_PUBLISH_BYTES):
            self._publish_on_thread(self.file_obj)
        else:
            super().handle_close()

    def _publish_on_thread(self, upload: Upload) -> None:
        self.halt()

        def publish() -> Callable[[], None]:
            failure: OSError | None = None
            try:
                self._write_held_back(upload)
                upload.publish(durable=self.fsync)
            except OSError as error:
                failure = error
            return lambda: self._published(upload, failure)

        self._publishing = self.cmd_channel.server.publishes.submit(publish)
        if not self._publishing:
            super().handle_close()

    def _published(self, upload: Upload, failure: OSError | None) -> None:
        if self._closed:
            # The session has ended meanwhile, and has no channel left for an answer.
            self.reason = failure_reply(failure) if failure is not None else ""
            self._report(upload, completed=failure is None)
            return
        self._publishing = False
        if failure is None:
            super().handle_close()
        else:
            self._resp = (self._failed(self.file_obj, failure), logger.warning)
            self.close()

    def handle_error(self) -> None:
        error = sys.exc_info()[1]
        cause = error.__cause__ if isinstance(error, _FileReadWriteError) else error
        if isinstance(cause, NotAllowed):  # the permissions were changed just before the listing began
            logger.info("a listing by %s was refused: %s", self._user(), cause)
        elif isinstance(cause, OSError):  # a disk that fails, or a folder that went away before it was listed
            logger.warning("a transfer by %s failed: %s", self._user(), cause.strerror)
        else:
            logger.exception("a transfer failed")
        self._resp = (FAILED, logger.warning)
        self.close()

    def stop(self, reply: str) -> None:
        """End the transfer without its whole file, and say so; nothing is published. One that is whole already is."""
        if self._publishing or self._draining:
            return
        self.reason = reply
        if self.receive and isinstance(self.file_obj, Upload) and self._fileno in self.ioloop.socket_map:
            self._settle(self.file_obj)
            self._report(self.file_obj, completed=False)
            self._drain(reply)
        else:
            self._resp = (reply, logger.info)
            self._break_off(reply)

    def abandon(self, reason: str) -> None:
        """End the transfer without its whole file, and without a reply: the session's last word is one for both."""
        self._resp = ()
        self._break_off(reason)

    def _break_off(self, reason: str) -> None:
        self.transfer_finished = False
        self.reason = self.reason or reason
        self._error = True  # no TLS farewell: to a client, that is the end of a whole file
        self.close()

    def _report(self, file: Any, *, completed: bool) -> None:
        if not self._reported and file is not None:
            self._reported = True
            if not completed and not self.reason and self._resp:
                self.reason = self._resp[0]
            self.cmd_channel.transfer_ended(self, file, completed=completed)

    def close(self) -> None:
        if not self._closed and isinstance(self.file_obj, Upload):
            if self._publishing:
                # The thread sees to the file to its end, whatever becomes of the session.
                self.file_obj = None
            elif not self.file_obj.closed:
                self._settle(self.file_obj)
        if not self._closed and self._initialized:
            self._report(self.file_obj, completed=self.transfer_finished)
        super().close()
        if self._closed:
            self.producer_fifo.clear()  # a listing that was broken off lets go of its folder

    def _settle(self, upload: Upload) -> None:
        try:
            if self.transfer_finished:
                self._write_held_back(upload)
                upload.publish(durable=self.fsync)
            else:
                upload.keep()
        except OSError as error:
            reply = self._failed(upload, error)
            if self.transfer_finished:
                self.transfer_finished = False
                self._resp = (reply, logger.warning)

    def _write_held_back(self, upload: Upload) -> None:
        if self._had_cr:
            self._had_cr = False
            upload.write(b"\r")  # ASCII mode held it back, in case a line feed would follow

    def _failed(self, upload: Upload, error: OSError) -> str:
        upload.discard()
        logger.warning("upload of %r by %s failed: %s", upload.name, self._user(), error.strerror)
        return failure_reply(error)

    def _user(self) -> str:
        return self.login.username if self.login is not None else "nobody"
