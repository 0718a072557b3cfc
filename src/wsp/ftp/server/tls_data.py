"""The data channel over TLS (PROT P, RFC 4217)."""

import logging
from typing import Any

from OpenSSL import SSL
from pyftpdlib.exceptions import _RetryError
from pyftpdlib.handlers.ftps.data import TLS_DTPHandler

from wsp.ftp.server.data import ABORTED, BROKE_OFF, DataChannel
from wsp.ftp.server.quiet import QuietConnection
from wsp.ftp.server.tls import is_resumed

NO_HANDSHAKE = "522 The TLS handshake of the data connection failed."
NOT_RESUMED = (
    "522 The data connection has to resume the TLS session of the control connection: use a client that can, "
    "or switch it on there."
)

_UNEXPECTED_EOF = (-1, "Unexpected EOF")

logger = logging.getLogger(__name__)


class TlsDataChannel(TLS_DTPHandler, DataChannel):
    """One transfer, over TLS when the client asked for it (PROT P)."""

    socket: Any  # pyftpdlib is untyped

    # Settings of the server.
    requires_resumption = False
    requires_farewell = True

    def __repr__(self) -> str:
        return DataChannel.__repr__(self)

    @property
    def is_protected(self) -> bool:
        return bool(self._ssl_requested)

    # The handshake

    def secure_connection(self, ssl_context: SSL.Context) -> None:
        self._ssl_requested = self._ssl_accepting = True
        self.socket = QuietConnection(ssl_context, self.socket)

    def modify_ioloop_events(self, events: int, logdebug: bool = False) -> None:
        if self._ssl_accepting:
            # It is the client's turn. A socket can be written to all the time: waiting for that would be no waiting.
            events = self.ioloop.WRITE if self._ssl_want_write else self.ioloop.READ
        super().modify_ioloop_events(events, logdebug)

    def handle_ssl_established(self) -> None:
        if self.requires_resumption and not is_resumed(self.socket):
            self._refuse(NOT_RESUMED)
            return
        self.modify_ioloop_events(self._wanted_io_events)
        if self.producer_fifo:
            self.initiate_send()

    def _refuse(self, reply: str) -> None:
        """End the connection. The client hears why, now or when it names the transfer that this was for."""
        if not self._initialized:
            self.cmd_channel.data_refusal = reply
            self.close()
        elif self.receive:
            self.file_obj.discard()
            self.reason = reply
            self._drain(reply)
        else:
            self._resp = (reply, logger.info)
            self.close()

    def handle_failed_ssl_handshake(self) -> None:
        if self._initialized:
            self._resp = (NO_HANDSHAKE, logger.info)
        else:
            self.cmd_channel.data_refusal = NO_HANDSHAKE
        self.close()

    # Data

    def initiate_send(self) -> None:
        if not self._ssl_accepting:  # OpenSSL would go on with the handshake by itself, and send
            super().initiate_send()

    def send(self, data: Any) -> int:
        try:
            return int(super().send(data))
        except SSL.Error as error:
            self._break(error)
            self.handle_close()
            return 0

    def _receive(self, most: int) -> Any:
        if not self._ssl_requested:
            return super()._receive(most)
        filled, ended = self.socket.fill(self._buffer, most)
        if isinstance(ended, SSL.WantReadError | SSL.WantWriteError):
            self._ssl_want_read = isinstance(ended, SSL.WantReadError)
            self._ssl_want_write = not self._ssl_want_read
            if not filled:
                raise _RetryError from ended
        elif isinstance(ended, SSL.ZeroReturnError):
            self._told_whole = self._at_end = True
        elif isinstance(ended, SSL.SysCallError) and ended.args == _UNEXPECTED_EOF and not self.requires_farewell:
            self._at_end = True
        elif ended is not None:
            self._break(ended)
        return self._buffer[:filled]

    def _break(self, error: Exception) -> None:
        logger.info("TLS broke on a data channel: %s", error)
        self._broken = self._at_end = True

    # The end

    def handle_error(self) -> None:
        self._error = True  # no TLS farewell on a connection that failed
        DataChannel.handle_error(self)

    def handle_timeout(self) -> None:
        # A client that takes no data takes no farewell either: waiting for that to leave would be waiting for ever.
        self._error = self.get_transmitted_bytes() <= self._lastdata
        super().handle_timeout()

    def close(self) -> None:
        if self._closed:
            return
        if self._ssl_accepting and self._initialized and not self._resp and not self.reason:
            self._resp = (ABORTED if self.receive else BROKE_OFF, logger.info)
        super().close()
        if not self._closed and not (self._ssl_want_read or self._ssl_want_write):
            self._error = True  # the farewell failed in a way that will raise no further event
            super().close()
