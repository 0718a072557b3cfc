"""TLS on a data connection that the client only writes to.

After a handshake of TLS 1.3 a server sends tickets for later sessions. A client that uploads may never read them: Go's
TLS, and so rclone, closes its socket while they lie there unread, and a socket that is closed so resets the connection.
The end of the upload is then lost on the way. So here the tickets wait until there is something else to send.
"""

import errno
import os
import socket
from typing import Any

from OpenSSL import SSL

# OpenSSL's own switch for tickets (SSL_set_num_tickets) is not among what pyOpenSSL has.
from OpenSSL.SSL import _ffi, _lib  # type: ignore[attr-defined]

PEEK_BYTES = 16 * 1024
RECORD_BYTES = 2**14  # the longest record (RFC 8446, 5.1), and what OpenSSL hands out at once


class QuietConnection(SSL.Connection):
    """The server's side of TLS on a connected socket, silent from the end of the handshake until it is written to.

    The handshake goes through buffers in memory, which is how its last words can be held back; then OpenSSL gets the
    socket itself. What the client sent behind the handshake stays in the socket until OpenSSL reads from there.
    """

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        super().__init__(context, None)
        self._socket = sock
        self._withheld = b""
        self.set_accept_state()

    def do_handshake(self) -> None:
        """One step of the handshake. Raises as `SSL.Connection` does: WantReadError until it is complete."""
        try:
            arrived = self._sock.recv(PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            raise SSL.WantReadError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, os.strerror(error.errno or errno.EIO)) from None
        if not arrived:
            raise SSL.SysCallError(-1, "Unexpected EOF")
        self.bio_write(arrived)
        try:
            super().do_handshake()
        except SSL.Error:
            self._take(len(arrived))
            self._send(self._answer())
            raise
        self._take(len(arrived))
        answer = self._answer()
        _lib.SSL_set_fd(self._ssl, self._sock.fileno())  # this frees both buffers
        self._into_ssl = self._from_ssl = None
        if self.get_protocol_version() == SSL.TLS1_3_VERSION:
            self._withheld = answer
        else:
            self._send(answer)  # before TLS 1.3 the server has the last word of the handshake

    def send(self, buf: Any, flags: int = 0) -> int:
        """Send data, after what was held back."""
        self._release()
        return super().send(buf, flags)

    def fill(self, buffer: memoryview, most: int) -> tuple[int, SSL.Error | None]:
        """Receive up to `most` bytes: how many there were, and why not more; None when there may be more.

        pyOpenSSL's own way in allocates a buffer for each record, and copies it. While `most` is what the buffer
        holds, whole records are taken: nothing stays behind in OpenSSL that no event would tell of.
        """
        filled = 0
        with _ffi.from_buffer(buffer, require_writable=True) as data:
            while filled < most and filled + RECORD_BYTES <= len(buffer):
                received = _lib.SSL_read(self._ssl, data + filled, min(RECORD_BYTES, most - filled))
                if received <= 0:
                    try:
                        self._raise_ssl_error(self._ssl, received)
                    except SSL.Error as reason:
                        return filled, reason
                filled += received
        return filled, None

    def shutdown(self) -> bool:
        """Send the farewell, after what was held back."""
        self._release()
        return super().shutdown()

    @property
    def _sock(self) -> socket.socket:
        if self._socket is None:
            raise SSL.SysCallError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._socket

    def _take(self, arrived: int) -> None:
        """Take off the socket what OpenSSL has used of what was peeked at."""
        buffer = _ffi.new("char[]", PEEK_BYTES)
        unused = max(0, _lib.BIO_read(self._into_ssl, buffer, PEEK_BYTES))
        if arrived > unused:
            self._sock.recv(arrived - unused)

    def _answer(self) -> bytes:
        """What OpenSSL has written meanwhile."""
        parts = []
        try:
            while True:
                parts.append(self.bio_read(PEEK_BYTES))
        except SSL.WantReadError:
            return b"".join(parts)

    def _release(self) -> None:
        withheld, self._withheld = self._withheld, b""
        self._send(withheld)

    def _send(self, data: bytes) -> None:
        """Nothing else was sent on this connection: a few kilobytes always fit, while the client is there."""
        try:
            sent = self._sock.send(data) if data else 0
        except OSError:
            sent = -1
        if sent != len(data):
            raise SSL.SysCallError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
