"""The way out of a data channel: files by sendfile(2) where that can be, everything else a chunk at a time."""

import os
from typing import Any

from pyftpdlib.handlers.ftp.producers import FileProducer
from pyftpdlib.ioloop import _ERRNOS_DISCONNECTED, _ERRNOS_RETRY

from wsp.ftp.server.paced import PacedChannel

SENDFILE_BYTES = 2 * 2**20  # what one sendfile(2) may take; the socket's buffer is the real limit
CHUNK_BYTES = 128 * 1024  # read from a file at once, where sendfile(2) cannot be used
TURN_BYTES = 2**20  # sent to one client before the others have their turn


class SendingChannel(PacedChannel):
    """Sends what producers give."""

    # pyftpdlib is untyped: these are its own.
    tot_bytes_sent: int
    _offset: int
    _filefd: int

    def __init__(self, sock: Any, cmd_channel: Any) -> None:
        self._out = b""  # what was taken from a producer and not sent yet
        self._by_sendfile = False
        super().__init__(sock, cmd_channel)

    def push_with_producer(self, producer: Any) -> None:
        self._initialized = True
        self.modify_ioloop_events(self.ioloop.WRITE)
        self._wanted_io_events = self.ioloop.WRITE
        if self.use_sendfile():
            self._by_sendfile = True
            self._offset = producer.file.tell()
            self._filefd = producer.file.fileno()
        self.producer_fifo.append(producer)
        if not self.must_wait():
            self.initiate_send()

    def initiate_send(self) -> None:
        """Send for one turn, or until the client takes no more."""
        if self._by_sendfile:
            self._send_file()
            return
        left = TURN_BYTES
        while left > 0 and not self._closed:
            if not self._out and not self._take_from_producer():
                return
            sent = self.send(self._out)
            if not sent:
                return
            self._out = self._out[sent:]
            left -= sent
            if self.pay(sent):
                return

    def _take_from_producer(self) -> bool:
        """Whether there is something to send. At the end, the channel is closed."""
        while self.producer_fifo:
            first = self.producer_fifo[0]
            if first is None:  # close_when_done()
                self.producer_fifo.popleft()
                self.handle_close()
                return False
            if isinstance(first, bytes | bytearray):
                self._out = bytes(self.producer_fifo.popleft())
            else:
                if isinstance(first, FileProducer):
                    first.buffer_size = self.budget(CHUNK_BYTES)
                self._out = bytes(first.more())
                if not self._out:
                    self.producer_fifo.popleft()
            if self._out:
                return True
        return False

    def _send_file(self) -> None:
        try:
            sent = os.sendfile(self._fileno, self._filefd, self._offset, self.budget(SENDFILE_BYTES))
        except OSError as error:
            if error.errno in _ERRNOS_RETRY:
                return
            if error.errno in _ERRNOS_DISCONNECTED:
                self.handle_close()
            elif self.tot_bytes_sent:
                raise
            else:  # there are file systems that it cannot read from
                self._by_sendfile = False
                self.initiate_send()
            return
        if sent:
            self._offset += sent
            self.tot_bytes_sent += sent
            self.pay(sent)
        else:
            self.producer_fifo.clear()
            self.handle_close()
