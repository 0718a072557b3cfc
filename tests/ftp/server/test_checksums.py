"""Checksums of uploads, computed beside the transfer."""

import hashlib
import io
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.records import Transfer
from wsp.ftp.server.checksum import INLINE_BYTES, NEWS_BYTES, Checksum, Checksums
from wsp.ftp.server.loop import Loop

BODY = os.urandom(20 * 2**20 + 12_345)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that turns on a thread of its own."""
    loop = Loop()
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    loop.call(loop.stop)
    thread.join(10)
    loop.close()


class Arriving:
    """A file that grows."""

    def __init__(self, path: Path, checksum: Checksum) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.size = 0
        self.checksum = checksum

    def write(self, data: bytes) -> None:
        self.size += os.write(self.fd, data)
        self.checksum.arrived(self.fd, self.size)

    def end(self) -> None:
        self.checksum.end(self.fd, self.size)
        os.close(self.fd)


def result(checksum: Checksum) -> str:
    known: list[str] = []
    there = threading.Event()

    def take(text: str) -> None:
        known.append(text)
        there.set()

    checksum.then(take)
    assert there.wait(20)
    return known[0]


@pytest.fixture
def arriving(loop: Loop, tmp_path: Path) -> Callable[..., Arriving]:
    def begin(setting: str = "sha256") -> Arriving:
        checksum = Checksums(loop, setting).begin()
        assert checksum is not None
        return Arriving(tmp_path / os.urandom(4).hex(), checksum)

    return begin


class TestUpload:
    @pytest.mark.e2e
    def test_its_record_has_the_checksum_of_the_whole_file(
        self, new_server: Any, connect: Any, put: Any, until: Any
    ) -> None:
        server = new_server(WSP_FTP_UPLOAD_CHECKSUM="crc32").start()
        account = server.account()
        client = connect(server, account)
        put(client, "small", b"small")
        put(client, "big", BODY)
        client.storbinary("APPE small", io.BytesIO(b"er"))
        put(client, "big", BODY[:10], rest=len(BODY) - 10)

        def recorded() -> list[tuple[str, str]] | None:
            with server.database.reading() as session:
                found = [(transfer.path, transfer.checksum) for transfer in session.query(Transfer)]
            return found if len(found) == 4 else None

        whole = BODY[:-10] + BODY[:10]
        assert sorted(until(recorded)) == sorted(
            (path, f"crc32:{zlib.crc32(content):08x}")
            for path, content in (("/small", b"small"), ("/big", BODY), ("/small", b"smaller"), ("/big", whole))
        )

    @pytest.mark.e2e
    def test_it_is_waited_for_when_the_server_stops(self, new_server: Any, connect: Any, put: Any) -> None:
        server = new_server().start()
        client = connect(server, server.account())
        put(client, "big", BODY)
        server.stop()
        with server.database.reading() as session:
            (transfer,) = session.query(Transfer).all()
        assert transfer.checksum == f"sha256:{hashlib.sha256(BODY).hexdigest()}"


class TestChecksum:
    @pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, NEWS_BYTES, NEWS_BYTES + 1, len(BODY)])
    @pytest.mark.parametrize("setting", ["sha256", "crc32"])
    def test_of_files_of_every_size(self, arriving: Callable[..., Arriving], setting: str, size: int) -> None:
        file, body = arriving(setting), BODY[:size]
        for start in range(0, size, 300_000):
            file.write(body[start : start + 300_000])
        file.end()
        digest = hashlib.sha256(body).hexdigest() if setting == "sha256" else f"{zlib.crc32(body):08x}"
        assert result(file.checksum) == f"{setting}:{digest}"

    def test_many_at_once(self, arriving: Callable[..., Arriving], loop: Loop) -> None:
        files = [arriving() for _ in range(10)]
        for start in range(0, len(BODY), 2**20):
            for file in files:
                file.write(BODY[start : start + 2**20])
        for file in files:
            file.end()
        assert {result(file.checksum) for file in files} == {f"sha256:{hashlib.sha256(BODY).hexdigest()}"}

    def test_of_a_continued_file_it_is_the_whole_ones(self, arriving: Callable[..., Arriving]) -> None:
        file = arriving()
        file.size = os.write(file.fd, BODY[:5_000_000])
        file.write(BODY[5_000_000:])
        file.end()
        assert result(file.checksum) == f"sha256:{hashlib.sha256(BODY).hexdigest()}"

    def test_none_of_one_that_was_given_up(self, arriving: Callable[..., Arriving]) -> None:
        file = arriving()
        before = len(os.listdir("/proc/self/fd"))
        file.write(BODY)
        file.checksum.give_up()
        assert result(file.checksum) == ""
        deadline = threading.Event()
        for _ in range(1000):
            if len(os.listdir("/proc/self/fd")) == before:
                break
            deadline.wait(0.01)
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(file.fd)

    def test_none_where_the_file_was_cut_behind_the_servers_back(self, arriving: Callable[..., Arriving]) -> None:
        file = arriving()
        file.size = os.write(file.fd, BODY)
        os.truncate(file.fd, 10)
        file.end()
        assert result(file.checksum) == ""

    def test_none_when_none_are_wanted(self, loop: Loop) -> None:
        assert Checksums(loop, "none").begin() is None
