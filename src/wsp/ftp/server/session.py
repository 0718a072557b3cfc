"""One client's session: its transfers, its data connections, and its end. What it can do is in the classes below it."""

import socket
from typing import Any

from wsp.ftp.server.followed import FollowedSession
from wsp.ftp.server.passive import PassiveListener, same_address
from wsp.ftp.server.tls_data import TlsDataChannel

TRANSFERS = ("APPE", "LIST", "MLSD", "NLST", "RETR", "STOR", "STOU")
GOING_DOWN = "421 The server is shutting down."
OUT_OF_TIME = "The server is shutting down, and could not wait for the transfer any longer."
NO_DATA_CONNECTION = "425 Open a data connection first, with PASV, EPSV, PORT or EPRT."
NOT_PROTECTED = "521 The data connection has to be protected: send PBSZ 0 and PROT P before it is opened."  # RFC 4217
ONE_TRANSFER = "503 A transfer is going on already."


class Session(FollowedSession):
    """What a client talks to. Its settings are class attributes: the listener makes a subclass with its own."""

    dtp_handler = TlsDataChannel
    passive_dtp = PassiveListener
    banner = "wsp FTP ready."

    # pyftpdlib is untyped: these are its own.
    _dtp_acceptor: PassiveListener | None
    _dtp_connector: Any
    _out_dtp_queue: tuple[Any, bool, Any, str] | None

    def __init__(self, conn: socket.socket, server: Any, ioloop: Any = None) -> None:
        self.data_refusal = NO_DATA_CONNECTION
        """Why there is no data connection, when there is none."""
        super().__init__(conn, server, ioloop)

    def process_command(self, cmd: str, *args: Any, **kwargs: Any) -> None:
        if cmd in TRANSFERS:
            refusal = None
            if self._in_dtp_queue is not None or self._out_dtp_queue is not None or self.is_transferring:
                refusal = ONE_TRANSFER
            elif self.data_channel is None and self._dtp_acceptor is None and self._dtp_connector is None:
                refusal = self.data_refusal
            elif self.must_protect_data and not self._data_is_protected:
                refusal = NOT_PROTECTED
            if refusal is not None:
                self._restart_position = 0  # REST is for the very next transfer, also when that cannot be
                self._forget_asked()
                self.respond(refusal)
                return
        super().process_command(cmd, *args, **kwargs)

    @property
    def is_transferring(self) -> bool:
        """Whether a transfer is going on over the data channel."""
        channel = getattr(self, "data_channel", None)
        return channel is not None and channel.is_transferring

    @property
    def _data_is_protected(self) -> bool:
        """Whether the next transfer goes over TLS. A connection made before PROT P is what it was made as."""
        return bool(self._prot if self.data_channel is None else self.data_channel.is_protected)

    # Data connections

    def _make_eport(self, ip: str, port: int) -> None:
        self.data_refusal = NO_DATA_CONNECTION
        super()._make_eport(self.remote_ip if same_address(ip, self.remote_ip) else ip, port)

    def _make_epasv(self, extmode: bool = False) -> None:
        self.data_refusal = NO_DATA_CONNECTION
        super()._make_epasv(extmode)
        if self._dtp_acceptor is not None and not self._dtp_acceptor.is_listening:
            self._dtp_acceptor = None

    def _shutdown_connecting_dtp(self) -> None:
        super()._shutdown_connecting_dtp()
        # A command that was waiting for the connection waits no longer.
        if self._out_dtp_queue is not None:
            if self._out_dtp_queue[2] is not None:
                self._out_dtp_queue[2].close()
            self._out_dtp_queue = None
            self.never_began()
        if self._in_dtp_queue is not None:
            self._in_dtp_queue[0].close()
            self._in_dtp_queue = None
            self.never_began()

    def _on_dtp_close(self) -> None:
        if self._closed:
            return
        super()._on_dtp_close()
        if self._leaving and not self._closed:
            self.leave()

    # The end

    def ftp_QUIT(self, line: str) -> None:
        """Say goodbye; a running transfer ends, and is answered, first (RFC 959)."""
        self.respond("221 Goodbye.")
        if self.is_transferring:
            self._quit_pending = True
            self._watch(0)
        else:
            self._shutdown_connecting_dtp()
            self.close_when_done()

    def leave(self) -> None:
        """Say goodbye now, or when the running transfer has ended."""
        if self.is_ending:
            return
        if self.is_transferring or self._in_dtp_queue is not None or self._out_dtp_queue is not None:
            self._leaving = True
        elif self._ssl_accepting:
            self.close()
        else:
            self._hang_up(GOING_DOWN)

    def close(self) -> None:
        if self._closed or self._in_command:
            super().close()
            return
        fs = self.fs
        super().close()
        self.data_channel = None  # pyftpdlib deletes it, while that channel itself may be about to close
        if fs is not None:
            fs.close()
        self.server.forget(self)
