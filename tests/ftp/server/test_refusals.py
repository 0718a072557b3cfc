"""Whatever is refused, to whomever: it is said in a reply, and nothing of it stays open."""

import os
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TRANSFERS = ("LIST", "NLST", "MLSD", "RETR", "STOR", "APPE", "STOU")
COMMANDS = (
    *TRANSFERS,
    *("SIZE", "MDTM", "MLST", "STAT", "CWD", "RNFR", "DELE", "RMD", "MKD", "HASH", "XCRC", "XMD5", "XSHA256"),
    *("SITE CHMOD 600", "MFMT 20200101000000", "SITE UTIME 202001010000"),
    *(f"SITE {word}" for word in ("STAGE", "PUBLISH", "DISCARD", "RELEASES", "ROLLBACK", "FORGET")),
)
PATHS = ("shut", "shut/f", "shut/sub", "incoming/f", "incoming/new", "f/below", "out", "out/f", "way", "pipe", "gone")
RULES = [
    {"folder": "/", "allow": ["list", "read"]},
    {"folder": "/shut", "allow": []},
    {"folder": "/incoming", "allow": ["write"]},
]


def fill(folder: Path) -> None:
    for name in ("shut/sub", "incoming"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("f", "shut/f", "incoming/f"):
        (folder / name).write_bytes(b"x")
    (folder / "out").symlink_to("/etc")
    (folder / "way").symlink_to("shut/f")
    os.mkfifo(folder / "pipe")


def open_files(server: Any, home: Path) -> list[str]:
    """What the server has open in a home, the home itself included."""
    found = []
    folder = f"/proc/{server.processes[0].pid}/fd"
    for number in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{number}"))
        except FileNotFoundError:
            continue
    return [path for path in found if path == str(home) or path.startswith(f"{home}/")]


def run(client: Any, command: str) -> str:
    """The last reply to a command, with data where it takes some."""
    port = int(client.ask("EPSV").split("|")[3])
    reply = str(client.ask(command))
    if reply.startswith("1"):
        with socket.create_connection(("127.0.0.1", port), timeout=15) as data:
            if command.startswith(("STOR", "APPE", "STOU")):
                data.shutdown(socket.SHUT_WR)
            while data.recv(65536):
                continue
        reply = str(client.reply())
    return reply


class TestEveryCommand:
    @pytest.mark.parametrize("who", ["account", "stranger"])
    def test_is_answered_and_leaves_nothing_open(self, server: Any, raw: Any, until: Any, who: str) -> None:
        client = raw(server)
        if who == "account":
            account = server.account(permissions=RULES, quota_mb=1)
            home = account.home
            fill(home)
            client.login(account)
        else:
            domain = f"{uuid.uuid4().hex}.example"
            home = server.anonymous(domain, allow_upload=True)
            fill(home)
            client.ask(f"USER anonymous@{domain}")
            assert client.ask("PASS me@").startswith("230")
        client.ask("TYPE I")
        for path in PATHS:
            for command in COMMANDS:
                client.ask("CWD /")
                reply = run(client, f"{command} {path}")
                assert reply.startswith(("2", "3", "501", "55")), (command, path, reply)
        client.ask("EPSV")  # lets go of the data connection
        # The session's own, and nothing else; a count of the home that goes on meanwhile lets go by itself.
        until(lambda: open_files(server, home) == [str(home)])
