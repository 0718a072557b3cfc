"""`kill -9` of a process in the middle of uploads: no half file under its name, and the next start works."""

import ftplib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("store", ["sqlite"], indirect=True)]

OLD = b"the old content"
HALF = os.urandom(3_000_000)
UPLOADS = 6


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class HalfAnUpload:
    """A client that has sent the first half of a file and waits."""

    def __init__(self, port: int, username: str, password: str, name: str, stack: ExitStack) -> None:
        self.name = name
        self.client = ftplib.FTP()
        stack.callback(self.client.close)
        self.client.connect("127.0.0.1", port, timeout=20)
        self.client.login(username, password)
        self.client.voidcmd("TYPE I")
        self.data: socket.socket = self.client.transfercmd(f"STOR {name}")
        stack.callback(self.data.close)
        self.data.sendall(HALF)

    def finish(self) -> str:
        """Send the second half; the server's answer."""
        self.data.sendall(HALF)
        self.data.close()
        return self.client.voidresp()


def half_written(folder: Path, count: int) -> bool:
    return sum(path.stat().st_size == len(HALF) for path in folder.glob(".wsp-upload-*.tmp")) == count


class TestTheFtpProcess:
    def test_old_files_stay_new_ones_do_not_appear_and_both_can_be_sent_again(
        self, new_server: Callable[..., Any], connect: Any, until: Any, put: Any, stack: ExitStack, store: str
    ) -> None:
        server = new_server().start()
        account = server.account()
        client = connect(server, account)
        for number in range(0, UPLOADS, 2):
            put(client, f"f{number}", OLD)
        for number in range(UPLOADS):
            HalfAnUpload(server.port, account.username, account.password, f"f{number}", stack)
        until(lambda: half_written(account.home, UPLOADS))
        server.processes[0].kill()
        server.processes[0].wait()

        server.start()
        client = connect(server, account)
        olds = [f"f{number}" for number in range(0, UPLOADS, 2)]
        assert client.nlst() == olds
        assert [name for name, _ in client.mlsd()] == olds
        lines: list[str] = []
        client.dir(lines.append)
        assert [line.split()[-1] for line in lines] == olds
        assert all((account.home / name).read_bytes() == OLD for name in olds)
        for number in range(UPLOADS):
            put(client, f"f{number}", HALF)
            assert (account.home / f"f{number}").read_bytes() == HALF
        assert client.nlst() == [f"f{number}" for number in range(UPLOADS)]

    def test_of_two_one_goes_on(self, new_server: Callable[..., Any], until: Any, stack: ExitStack, store: str) -> None:
        server = new_server().start().start()
        account = server.account()
        uploads: list[HalfAnUpload] = []

        def both_are_at_work() -> bool:
            name = f"f{len(uploads)}"
            uploads.append(HalfAnUpload(server.port, account.username, account.password, name, stack))
            return all("login: user" in path.read_text() for path in server.folder.glob("ftp-*.log"))

        until(both_are_at_work, seconds=60)
        until(lambda: half_written(account.home, len(uploads)))
        server.processes[0].kill()
        server.processes[0].wait()
        whole = 0
        for upload in uploads:
            try:
                assert upload.finish().startswith("226")
            except (OSError, EOFError):
                assert not (account.home / upload.name).exists()
            else:
                assert (account.home / upload.name).read_bytes() == HALF * 2
                whole += 1
        assert 0 < whole < len(uploads)
