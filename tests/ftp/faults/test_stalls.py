"""Clients that stop in the middle of something, and stay: they are timed out, and everything of theirs is freed."""

import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.parametrize("store", ["sqlite"], indirect=True)]

IDLE_SECONDS = 10  # the least that the setting takes
FREED_SECONDS = 6.0 * IDLE_SECONDS  # a transfer is looked at once in that time, so it may take twice as long
NEVER_IDLE_SECONDS = 60
BIG_BYTES = 64 * 2**20  # more than the buffers of a socket hold
MANY_FILES = 2000  # a reply that lists them has more than 100 KB
REPLIES = 100
SMALL_BUFFER = 4096


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


class Stalled:
    """A control connection that goes so far and no further. Data connections of it are kept open."""

    def __init__(self, server: Any, account: Any, stack: ExitStack) -> None:
        self.server, self.account, self.stack = server, account, stack
        self.socket: socket.socket = self.open(server.port)
        self.reply("220")

    def open(self, port: int) -> socket.socket:
        opened = socket.socket()
        self.stack.callback(opened.close)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        opened.settimeout(20)
        opened.connect(("127.0.0.1", port))
        return opened

    def reply(self, code: str) -> str:
        text = self.socket.recv(4096).decode()
        assert text.startswith(code), text
        return text

    def ask(self, line: str, code: str) -> str:
        self.socket.sendall(f"{line}\r\n".encode())
        return self.reply(code)

    def secure(self) -> "Stalled":
        self.ask("AUTH TLS", "234")
        self.socket = context().wrap_socket(self.socket)
        self.stack.callback(self.socket.close)
        self.ask("PBSZ 0", "200")
        self.ask("PROT P", "200")
        return self

    def login(self) -> "Stalled":
        self.ask(f"USER {self.account.username}", "331")
        self.ask(f"PASS {self.account.password}", "230")
        self.ask("TYPE I", "200")
        return self

    def data(self) -> socket.socket:
        return self.open(int(self.ask("EPSV", "229").split("|")[3]))


def before_the_login(stalled: Stalled) -> None:
    stalled.ask("USER somebody", "331")


def in_a_command_line(stalled: Stalled) -> None:
    stalled.login().socket.sendall(b"STOR half-a-na")


def in_the_tls_handshake(stalled: Stalled) -> None:
    stalled.ask("AUTH TLS", "234")
    stalled.socket.sendall(b"\x16\x03\x01\x02\x00\x01")


def idle_over_tls(stalled: Stalled) -> None:
    stalled.secure().login()


def without_a_data_connection(stalled: Stalled) -> None:
    stalled.login().ask("EPSV", "229")
    stalled.ask("STOR never-connected", "150")


def with_a_data_connection_and_no_command(stalled: Stalled) -> None:
    stalled.login().data()


def in_the_tls_handshake_of_data(stalled: Stalled) -> None:
    data = stalled.secure().login().data()
    stalled.ask("STOR no-handshake", "1")
    data.sendall(b"\x16\x03\x01\x02\x00\x01")


def in_an_upload(stalled: Stalled) -> None:
    data = stalled.login().data()
    stalled.ask("STOR half-a-file", "1")
    data.sendall(b"x" * 100_000)


def in_an_upload_over_tls(stalled: Stalled) -> None:
    data = stalled.secure().login().data()
    stalled.ask("STOR half-a-file-over-tls", "1")
    secured = context().wrap_socket(data)
    stalled.stack.callback(secured.close)
    secured.sendall(b"x" * 100_000)


def in_a_download(stalled: Stalled) -> None:
    data = stalled.login().data()
    stalled.ask("RETR big", "1")
    data.recv(1)


def in_a_download_over_tls(stalled: Stalled) -> None:
    data = stalled.secure().login().data()
    stalled.ask("RETR big", "1")
    secured = context().wrap_socket(data)
    stalled.stack.callback(secured.close)
    secured.recv(1)


def with_replies_unread(stalled: Stalled) -> None:
    # More than a socket's buffers hold, and fewer than a client is cut off for.
    stalled.login().socket.sendall(b"STAT many\r\n" * REPLIES)


def with_replies_unread_over_tls(stalled: Stalled) -> None:
    with_replies_unread(stalled.secure())


STALLS = [
    before_the_login,
    in_a_command_line,
    in_the_tls_handshake,
    idle_over_tls,
    without_a_data_connection,
    with_a_data_connection_and_no_command,
    in_the_tls_handshake_of_data,
    in_an_upload,
    in_an_upload_over_tls,
    in_a_download,
    in_a_download_over_tls,
    with_replies_unread,
    with_replies_unread_over_tls,
]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fill(home: Path) -> None:
    with (home / "big").open("wb") as big:
        big.truncate(BIG_BYTES)
    (home / "many").mkdir()
    for number in range(MANY_FILES):
        (home / "many" / str(number)).touch()


def descriptors(process: Any) -> dict[str, str]:
    folder = f"/proc/{process.pid}/fd"
    found = {}
    for number in os.listdir(folder):
        try:
            found[number] = os.readlink(f"{folder}/{number}")
        except FileNotFoundError:
            continue
    return found


def held_for_clients(process: Any, home: Path) -> list[Any]:
    """What the server has open for its clients. All descriptors would count a connection to the store as well, which is
    made when there is first something to write."""
    return [
        *sockets_of_clients(process),
        *(path for path in descriptors(process).values() if path.startswith(str(home))),
    ]


class TestAStalledClient:
    def test_is_timed_out_and_freed(
        self, new_server: Callable[..., Any], connect: Any, put: Any, until: Any, stack: ExitStack, store: str
    ) -> None:
        server = new_server(WSP_FTP_IDLE_TIMEOUT=str(IDLE_SECONDS)).start()
        account = server.account()
        client = connect(server, account)
        put(client, "kept", b"old")
        fill(account.home)
        client.quit()
        (process,) = server.processes
        until(lambda: not sockets_of_clients(process))
        before = listeners(process)
        for stall in STALLS:
            stall(Stalled(server, account, stack))
        assert len(held_for_clients(process, account.home)) > len(STALLS)
        assert listeners(process) > before

        until(lambda: not held_for_clients(process, account.home), "freeing everything", seconds=FREED_SECONDS)
        assert listeners(process) == before
        assert connect(server, account).nlst() == ["big", "kept", "many"]
        assert "Traceback" not in server.log

    def test_that_vanished_with_a_reset_is_freed_at_once(
        self, new_server: Callable[..., Any], connect: Any, put: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_IDLE_TIMEOUT=str(NEVER_IDLE_SECONDS)).start()
        account = server.account()
        client = connect(server, account)
        fill(account.home)
        client.quit()
        (process,) = server.processes
        until(lambda: not sockets_of_clients(process))
        for stall in STALLS:
            with ExitStack() as connections:
                stalled = Stalled(server, account, connections)
                linger = struct.pack("ii", 1, 0)  # close() resets
                stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                stall(stalled)
        until(lambda: not held_for_clients(process, account.home), "freeing", seconds=NEVER_IDLE_SECONDS / 2)
        assert "Traceback" not in server.log


def sockets_of_clients(process: Any) -> list[Any]:
    return [one for one in psutil.Process(process.pid).net_connections("tcp") if one.status != "LISTEN"]


def listeners(process: Any) -> int:
    """How many sockets wait for connections: its own, and those for data connections of clients."""
    return sum(one.status == "LISTEN" for one in psutil.Process(process.pid).net_connections("tcp"))
