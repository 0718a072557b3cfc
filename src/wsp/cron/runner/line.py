"""The runner's end of the line to a scheduler: one at a time."""

import os
import select
import socket
import sys
from contextlib import suppress

from wsp.cron.runner import protocol

_RECEIVE_BYTES = 262144


class Line:
    """A socket that schedulers connect to, and the one that did."""

    def __init__(self, epoll: "select.epoll", folder: str, runner_id: str, first: socket.socket | None) -> None:
        """Changes the working folder to `folder`. Raises OSError."""
        self._epoll = epoll
        self._path = os.path.join(folder, protocol.socket_name(runner_id))
        self._peer: socket.socket | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._watched = select.EPOLLIN
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Relative names: the address of a socket has room for 107 bytes. It gets its real name when it can be
        # connected to: one that refuses is taken for a dead runner's, and removed.
        os.chdir(folder)
        made = f".{runner_id}"
        self._listener.bind(made)
        self._listener.listen(16)
        os.rename(made, protocol.socket_name(runner_id))
        self._file = _identity(self._path)
        epoll.register(self._listener, select.EPOLLIN)
        if first is not None:
            self._take(first)

    @property
    def connected(self) -> bool:
        """Is there a scheduler?"""
        return self._peer is not None

    def can_be_found(self) -> bool:
        """Can another scheduler connect? Not once somebody has removed the socket's file, or its folder."""
        try:
            return _identity(self._path) == self._file
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # not now; that may pass
            return True

    def descriptors(self) -> tuple[int, int]:
        """Those of the scheduler, -1 without one, and of the socket that others connect to."""
        return (self._peer.fileno() if self._peer else -1), self._listener.fileno()

    def accept(self) -> bool:
        """Somebody connects. Returns whether that is the scheduler from now on."""
        try:
            peer, _ = self._listener.accept()
        except OSError:  # went away, or there are too many descriptors
            return False
        if self._peer is not None:
            with suppress(OSError):
                peer.send(protocol.encode({"busy": True}))
            peer.close()
            return False
        self._take(peer)
        return True

    def _take(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._received.clear()
        self._unsent.clear()
        self._watched = select.EPOLLIN
        self._epoll.register(peer, self._watched)

    def receive(self) -> list[dict[str, object]]:
        """The messages that have come. The scheduler may be gone after that. Lines that are no messages are passed
        over, with a word on standard error."""
        if self._peer is None:
            return []
        data = b""
        try:
            while data := self._peer.recv(_RECEIVE_BYTES):
                self._received += data
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
        else:
            self._hang_up()
        end = self._received.rfind(b"\n")
        if end < 0:
            return []
        lines = bytes(self._received[:end]).split(b"\n")
        del self._received[: end + 1]
        messages = []
        for line in lines:
            try:
                messages.append(protocol.decode(line))
            except ValueError as error:
                print(f"a line that is no message: {error}", file=sys.stderr)  # noqa: T201 - its log is a file
        return messages

    def send(self, message: dict[str, object]) -> None:
        """Have the scheduler told, if there is one."""
        if self._peer is None:
            return
        waits = bool(self._unsent)
        self._unsent += protocol.encode(message)
        if not waits:
            self.send_more()

    def send_more(self) -> None:
        """Send what waits, as far as it is taken."""
        if self._peer is None:
            return
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it is gone; what it had to be told, the next one is told
            self._hang_up()
            return
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        if wanted != self._watched:
            self._epoll.modify(self._peer, wanted)
            self._watched = wanted

    def _hang_up(self) -> None:
        assert self._peer is not None  # noqa: S101 - for the type checker
        self._epoll.unregister(self._peer)
        self._peer.close()
        self._peer = None

    def close(self) -> None:
        """Nobody can connect any more."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listener.close()
        if self._peer is not None:
            self._hang_up()


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
