"""Commands of every kind, right, nearly right and random, by several clients at once.

The same seed sends the same commands; `FUZZ_SEED` and `FUZZ_COMMANDS` set others. What a failure prints is the seed,
and the last lines of each client.
"""

import os
import random
import re
import select
import socket
import ssl
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SEED = int(os.environ.get("FUZZ_SEED", "1"))
ALL_COMMANDS = int(os.environ.get("FUZZ_COMMANDS", "100000"))
FEW_COMMANDS = 5_000
CLIENTS = 4
LAST_LINES = 40
PATIENCE_SECONDS = 0.02  # how long a client waits for answers before it goes on without them

COMMANDS = (
    *("ABOR", "ALLO", "APPE", "AUTH", "CDUP", "CLNT", "CWD", "DELE", "EPRT", "EPSV", "FEAT", "HASH", "HELP", "HOST"),
    *("LANG", "LIST", "MDTM", "MFCT", "MFF", "MFMT", "MKD", "MLSD", "MLST", "MODE", "NLST", "NOOP", "OPTS", "PASS"),
    *("PASV", "PBSZ", "PORT", "PROT", "PWD", "QUIT", "RANG", "REIN", "REST", "RETR", "RMD", "RNFR", "RNTO", "SITE"),
    *("SIZE", "STAT", "STOR", "STOU", "STRU", "SYST", "TYPE", "USER", "XCRC", "XCUP", "XCWD", "XMD5", "XMKD", "XPWD"),
    *("XRMD", "XSHA256", "ACCT", "SMNT", "CCC", "SITE CHMOD", "SITE HELP", "SITE UTIME", "SITE STAGE", "SITE PUBLISH"),
)
# They are frequent, for the data connections; or rare, for they end what a session has got to.
FREQUENT = ("PASV", "EPSV", "STOR", "RETR", "APPE", "REST", "LIST", "MLSD", "STOU", "ABOR", "TYPE")
TRANSFERS = ("STOR", "STOR", "RETR", "RETR", "APPE", "STOU", "LIST", "NLST", "MLSD")
BARE = ("PASV", "EPSV", "ABOR", "PWD", "FEAT", "SYST", "NOOP", "CDUP", "STAT", "HELP", "XPWD", "REIN", "QUIT")
RARE = ("ACCT", "AUTH", "QUIT", "REIN", "USER", "PASS")
FILES = ("a", "b", "c.txt", "d", "d/e", "d/f.txt", "/d", "/", ".", "gr\u00fc\u00dfe", "with space")
PATHS = (
    *("..", "../../etc/passwd", "/../../..", "d/../../../etc", "~", "~root", "-la", "*", "[", "%s%n", "|id", "`id`"),
    *("out", "out/x", "loop", "/proc/self/environ", "a/b", "d//e", "./././a", "x" * 255, "x" * 256, "d/" * 200, "\t"),
    *("\ufeff", "cafe\u0301", "\u202e", "a\0b", "\ud800", ".wsp-upload-", ".wsp-upload-0.part", "con", "a\\b"),
)
NUMBERS = ("0", "1", "-1", "5", "65536", "2147483648", "9223372036854775807", "9223372036854775808", "1e9", "0x10", "x")
WORDS = (
    *("A", "I", "E", "L 8", "L 7", "S", "F", "R", "P", "C", "TLS", "SSL", "TLS-C", "ALL", "1", "2", "3", "N", "de-DE"),
    *("UTF8 ON", "UTF8 OFF", "MLST type;size;", "MLST", "MLST ;;;", "HASH SHA-256", "example.com", "[::1]", "644 a"),
    *("777 d", "0 a", "4755 a", "9 a", "20200101000000 a", "20209999000000 a", "99999999999999 a", "a b c", "CHMOD"),
)
ADDRESSES = (
    *("127,0,0,1,200,10", "127,0,0,1,0,80", "1,2,3,4,5,6", "256,0,0,1,1,1", "127,0,0,1", "a,b,c,d,e,f", ",,,,,"),
    *("|1|127.0.0.1|50000|", "|2|::1|50000|", "|1|1.2.3.4|21|", "|1||1|", "||||", "|3|x|y|", "!1!127.0.0.1!50000!"),
)
CODE = re.compile(rb"^([1-5]\d\d) ", re.MULTILINE)
PORTS = re.compile(rb"^(?:227 .*\((?:\d+,){4}(\d+),(\d+)\)|229 .*\(\|\|\|(\d+)\|\))", re.MULTILINE)


def any_line(chance: random.Random) -> bytes:
    """One line of any kind, with its line end."""
    kind = chance.random()
    if kind < 0.85:
        return a_command(chance) + b"\r\n"
    if kind < 0.93:
        return damaged(chance, a_command(chance)) + b"\r\n"
    if kind < 0.96:
        return chance.randbytes(chance.choice((1, 5, 50, 500))) + b"\r\n"
    if kind < 0.97:
        return b"CWD " + b"x" * chance.choice((4000, 8187, 8192, 9000)) + b"\r\n"
    return chance.choice((b"\r\n", b"\n", b" \r\n", b"\0\r\n", b"\xff\xf4\xff\xf2ABOR\r\n", b"NOOP\n\r\n"))


def a_command(chance: random.Random) -> bytes:
    command = chance.choice(FREQUENT if chance.random() < 0.4 else COMMANDS)
    if command in RARE and chance.random() < 0.9:
        command = "NOOP"
    if chance.random() < 0.1:
        return command.lower().encode()
    kind = chance.random()
    if command in BARE and kind < 0.8:
        return command.encode()
    if command in ("PORT", "EPRT") and kind < 0.8:
        argument = chance.choice(ADDRESSES)
    elif command == "REST" and kind < 0.9:
        argument = chance.choice(NUMBERS)
    elif command in ("TYPE", "OPTS", "SITE CHMOD", "MFMT") and kind < 0.8:
        argument = chance.choice(WORDS)
    elif kind < 0.75:
        argument = chance.choice(FILES)
    else:
        argument = chance.choice(chance.choice((PATHS, PATHS, NUMBERS, WORDS, WORDS, ADDRESSES)))
    return f"{command} {argument}".encode("utf-8", "surrogatepass")


def damaged(chance: random.Random, line: bytes) -> bytes:
    where = chance.randrange(len(line) + 1)
    return chance.choice((line[:where], line[:where] + chance.randbytes(3) + line[where:], line + b" " + line))


class Client:
    """Sends so many commands, over as many connections as that takes."""

    def __init__(self, server: Any, account: Any, seed: str, commands: int) -> None:
        self.server, self.account, self.commands = server, account, commands
        self.chance = random.Random(seed)
        self.last: deque[bytes] = deque(maxlen=LAST_LINES)
        self.answers: Counter[bytes] = Counter()
        self.sent = 0
        self.failure: Exception | None = None
        self.control: socket.socket
        self.listening: socket.socket | None = None
        self.data: list[socket.socket] = []

    def run(self) -> None:
        try:
            while self.sent < self.commands:
                with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as connection:
                    self.control = connection
                    with suppress(OSError):
                        self.session()
                    self.end()
        except Exception as error:
            self.failure = error

    def session(self) -> None:
        if self.chance.random() < 0.3:
            self.secure()
        if self.chance.random() < 0.85:
            self.say(f"USER {self.account.username}\r\nPASS {self.account.password}\r\n".encode(), 2)
            self.read(seconds=5.0, until=b"230 ")
        for _ in range(self.chance.randrange(1, 40)):
            lines = [any_line(self.chance) for _ in range(self.chance.choice((1, 1, 2, 5, 20, 60)))]
            if self.chance.random() < 0.02:
                lines.append(b"AUTH TLS\r\n" + self.chance.randbytes(20))
            self.say(b"".join(lines), len(lines))
            for port in self.ports(self.read(PATIENCE_SECONDS)):
                self.connect_data(port)
            self.use_data()
            if self.chance.random() < 0.5:
                self.transfer()

    def transfer(self) -> None:
        """One as it should be, up to the command: what becomes of it is again left to chance."""
        self.say(self.chance.choice((b"EPSV\r\n", b"PASV\r\n")), 1)
        for port in self.ports(self.read(1.0, until=b"\r\n")):
            self.connect_data(port)
        before = self.chance.choice(("", "", "TYPE I\r\n", "TYPE A\r\n", f"REST {self.chance.choice(NUMBERS)}\r\n"))
        line = f"{before}{self.chance.choice(TRANSFERS)} {self.chance.choice(FILES)}\r\n"
        self.say(line.encode(), line.count("\n"))
        self.read(PATIENCE_SECONDS)
        self.use_data()

    def say(self, data: bytes, count: int) -> None:
        self.last.append(data)
        self.sent += count
        self.control.sendall(data)

    def secure(self) -> None:
        self.say(b"AUTH TLS\r\n", 1)
        self.read(seconds=5.0, until=b"234 ")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.control = context.wrap_socket(self.control)
        self.say(b"PBSZ 0\r\nPROT P\r\n", 2)

    def read(self, seconds: float, until: bytes | None = None) -> bytes:
        """What comes in a while; all of it, if that ends sooner."""
        text = b""
        while select.select([self.control], [], [], seconds)[0]:
            self.control.setblocking(False)
            try:
                part = self.control.recv(2**18)
            except (BlockingIOError, ssl.SSLWantReadError):
                part = b""
            finally:
                self.control.settimeout(30)
            text += part
            if not part or (until is not None and until in text):
                break
        self.answers.update(CODE.findall(text))
        return text

    def ports(self, text: bytes) -> Iterator[int]:
        for high, low, whole in PORTS.findall(text):
            yield int(whole) if whole else int(high) * 256 + int(low)

    def connect_data(self, port: int) -> None:
        if self.chance.random() < 0.2:
            return
        with suppress(OSError):
            self.data.append(socket.create_connection(("127.0.0.1", port), timeout=5))

    def use_data(self) -> None:
        for connection in self.data[:]:
            with suppress(OSError):
                what = self.chance.randrange(6)
                if what == 0:
                    connection.sendall(self.chance.randbytes(self.chance.choice((1, 100, 50_000))))
                elif what == 1:
                    connection.settimeout(0.01)
                    connection.recv(100_000)
                elif what == 2:
                    connection.shutdown(socket.SHUT_WR)
                elif what == 3:
                    reset(connection)
                    self.data.remove(connection)
                elif what == 4:
                    connection.close()
                    self.data.remove(connection)
        for connection in self.data[:-3]:
            connection.close()
            self.data.remove(connection)

    def end(self) -> None:
        with suppress(OSError):
            what = self.chance.randrange(4)
            if what == 0:
                self.control.sendall(b"QUIT\r\n")
                self.read(seconds=1.0)
            elif what == 1:
                self.control.sendall(b"NOOP")
            elif what == 2:
                self.control.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.control.close()
        for connection in self.data:
            connection.close()
        self.data.clear()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def outside(root: Path, home: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what is in the home."""
    return {
        str(path): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_relative_to(home) and "server" not in path.parts[len(root.parts)]
    }


@pytest.mark.e2e
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
class TestAnyCommands:
    @pytest.mark.parametrize(
        "commands", [FEW_COMMANDS, pytest.param(ALL_COMMANDS, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
    )
    def test_leave_a_server_that_works(
        self, new_server: Any, connect: Any, put: Any, fetch: Any, until: Any, commands: int, store: str
    ) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="0", WSP_FTP_COMMANDS_BEFORE_LOGIN="100000").start()
        account = server.account()
        first = connect(server, account)
        put(first, "a", b"content")
        secret = server.settings.files / "secret"
        secret.write_text("not for clients")
        (account.home / "out").symlink_to("..")
        (account.home / "loop").symlink_to("loop")
        first.quit()
        (process,) = server.processes
        folder = f"/proc/{process.pid}/fd"
        connections = re.compile("socket:|" + re.escape(str(account.home)))

        def held() -> list[str]:
            """What the process has open for clients."""
            names = []
            for number in os.listdir(folder):
                with suppress(FileNotFoundError):
                    names.append(os.readlink(f"{folder}/{number}"))
            return [name for name in names if connections.match(name)]

        until(lambda: not any(str(account.home) in name for name in held()), "the first session's end")
        before = len(held())
        kept = outside(server.settings.files, account.home)

        clients = [Client(server, account, f"{SEED}/{number}", commands // CLIENTS) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        told = f"FUZZ_SEED={SEED} FUZZ_COMMANDS={commands}\n" + "\n".join(
            repr(line) for client in clients for line in client.last
        )
        assert [client.failure for client in clients] == [None] * CLIENTS, told
        assert process.poll() is None, told
        assert "Traceback" not in server.log, server.log[server.log.index("Traceback") - 500 :][:5000] + told
        until(lambda: len(held()) <= before, f"letting go of everything: {told}")
        assert outside(server.settings.files, account.home) == kept, told
        answers = sum((client.answers for client in clients), Counter[bytes]())
        assert answers.total() > commands / 2, answers  # else this tested little
        assert answers[b"226"] > commands / 500, answers
        last = connect(server, account)
        put(last, "at the end", b"works")
        assert fetch(last, "at the end") == b"works", told
