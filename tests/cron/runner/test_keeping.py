"""The files that output goes to, and who reads them meanwhile."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsp.cron.runner import keeping, spool
from wsp.cron.runner.excerpt import INLINE_BYTES
from wsp.cron.runner.frames import GAP, STDERR, STDOUT, decode, dropped
from wsp.cron.runner.keeping import Kept
from wsp.cron.runner.spool import Reader, gather

MEBIBYTE = 1024 * 1024


def content(pieces: list[tuple[int, int, bytes]]) -> tuple[bytes, int]:
    """The bytes that pieces hold, and how many they say were dropped; and they follow one another."""
    data, left_out, at = b"", 0, pieces[0][0] if pieces else 0
    for offset, stream, piece in pieces:
        assert offset == at
        if stream == GAP:
            left_out += dropped(piece)
            at += dropped(piece)
        else:
            data += piece
            at += len(piece)
    return data, left_out


def all_of(reader: Reader, offset: int = 0, limit: int = 100_000) -> tuple[list[tuple[int, int, bytes]], int]:
    pieces: list[tuple[int, int, bytes]] = []
    while True:
        found, offset = reader.read(offset, limit)
        if not found:
            return pieces, offset
        pieces += found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def counting(size: int, start: int = 0) -> bytes:
    """Bytes that say where they are."""
    return b"".join(b"%015d\n" % n for n in range(start // 16, (start + size) // 16))


class TestShort:
    def test_never_touches_the_disk(self, tmp_path: Path) -> None:
        kept = Kept(str(tmp_path), 1, MEBIBYTE)
        kept.add(STDOUT, b"x" * INLINE_BYTES)
        frames, in_file = kept.finish()
        assert decode(frames) == [(STDOUT, b"x" * (INLINE_BYTES // 2))] * 2
        assert not in_file
        assert list(tmp_path.iterdir()) == []

    def test_is_inline_even_if_it_was_slow_enough_to_be_written(self, tmp_path: Path) -> None:
        kept = Kept(str(tmp_path), 1, MEBIBYTE)
        assert kept.add(STDOUT, b"one")
        assert not kept.add(STDERR, b"two")
        kept.flush()
        assert kept.add(STDOUT, b"three")
        assert content(all_of(Reader(tmp_path, 1))[0]) == (b"onetwo", 0)
        assert kept.finish() == (b"\1\0\0\0\3one\2\0\0\0\3two\1\0\0\0\5three", False)
        assert kept.in_files

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        assert Kept(str(tmp_path), 1, MEBIBYTE).finish() == (b"", False)


class TestLong:
    def test_all_of_it_within_the_limit_is_in_files(self, tmp_path: Path) -> None:
        data = counting(3 * MEBIBYTE)
        kept = Kept(str(tmp_path), 1, 3 * MEBIBYTE)
        for at in range(0, len(data), 50_000):
            kept.add(STDOUT, data[at : at + 50_000])
        frames, in_file = kept.finish()
        assert in_file
        assert content(all_of(Reader(tmp_path, 1))[0]) == (data, 0)
        head, gap, tail = decode(frames)
        assert (head[1], tail[1]) == (data[: INLINE_BYTES // 2], data[-INLINE_BYTES // 2 :])
        assert dropped(gap[1]) == len(data) - INLINE_BYTES

    @pytest.mark.parametrize("limit", [70_000, 200_001, MEBIBYTE, 5 * MEBIBYTE])
    @pytest.mark.parametrize("chunk", [1000, 65_536])
    def test_head_and_tail_are_kept_to_the_byte(self, tmp_path: Path, limit: int, chunk: int) -> None:
        data = counting(12 * MEBIBYTE)
        kept = Kept(str(tmp_path), 7, limit)
        largest = 0
        for n, at in enumerate(range(0, len(data), chunk)):
            kept.add(STDOUT, data[at : at + chunk])
            if n % 50 == 0:
                kept.flush()
                largest = max(largest, size_of(tmp_path))
        assert kept.finish()[1]
        pieces, end = all_of(Reader(tmp_path, 7))
        assert end == len(data)
        assert content(pieces) == (data[: limit // 2] + data[len(data) - (limit - limit // 2) :], len(data) - limit)
        assert largest < 1.5 * limit + 1.5 * MEBIBYTE
        assert size_of(tmp_path) < limit + 20_000

    def test_a_small_limit_is_kept_in_memory(self, tmp_path: Path) -> None:
        kept = Kept(str(tmp_path), 1, 1024)
        data = counting(MEBIBYTE)
        kept.add(STDOUT, data)
        frames, in_file = kept.finish()
        assert not in_file
        assert [len(piece) for stream, piece in decode(frames) if stream != GAP] == [512, 512]

    def test_little_is_written_of_what_will_not_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[bytes] = []
        append = keeping._append

        def note(path: str, data: bytes, length: int) -> None:
            written.append(data)
            append(path, data, length)

        monkeypatch.setattr(keeping, "_append", note)
        kept = Kept(str(tmp_path), 1, 65536)
        for _ in range(1000):
            kept.add(STDOUT, b"x" * 65536)
        kept.flush()
        assert sum(map(len, written)) < 500_000


class TestReader:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(1, 2), st.integers(1, 40_000), st.booleans(), st.booleans()), max_size=40),
        st.integers(1024, 300_000),
    )
    def test_follows_the_writer(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool, bool]], limit: int
    ) -> None:
        folder = tmp_path_factory.mktemp("outputs")
        kept, reader = Kept(str(folder), 1, limit), Reader(folder, 1)
        written = b""
        seen: list[tuple[int, int, bytes]] = []
        at = 0
        for stream, size, flush, read in steps:
            data = os.urandom(size)
            written += data
            kept.add(stream, data)
            if flush:
                kept.flush()
            if read:
                found, at = reader.read(at, 30_000)
                seen += found
        kept.flush()
        found, at = all_of(reader, at)
        seen += found
        for offset, stream, piece in seen:
            if stream != GAP:
                assert written[offset : offset + len(piece)] == piece
        content(seen)
        assert at == len(written)  # the newest bytes are always there

    def test_from_any_byte_on(self, tmp_path: Path) -> None:
        data = counting(2 * MEBIBYTE)
        kept = Kept(str(tmp_path), 1, 4 * MEBIBYTE)
        for at in range(0, len(data), 30_000):
            kept.add(STDOUT + at // 30_000 % 2, data[at : at + 30_000])
        kept.flush()
        reader = Reader(tmp_path, 1)
        for offset in (0, 1, 29_999, 30_000, 1_500_000, 700_001, len(data) - 1, len(data)):
            pieces, end = all_of(reader, offset, limit=5000)
            assert (content(pieces), end) == ((data[offset:], 0), len(data))

    def test_a_frame_that_is_being_written_waits(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        segment = tmp_path / "1" / spool.segment_name(0)
        reader = Reader(tmp_path, 1)
        segment.write_bytes(b"\1\0\0\0\3one\1\0\0\0\3tw")
        assert reader.read(0) == ([(0, STDOUT, b"one")], 3)
        assert reader.read(3) == ([], 3)
        segment.write_bytes(b"\1\0\0\0\3one\1\0\0\0\3two")
        assert reader.read(3) == ([(3, STDOUT, b"two")], 6)

    def test_a_run_without_files(self, tmp_path: Path) -> None:
        assert Reader(tmp_path, 1).read(5) == ([], 5)


class TestGather:
    def test_what_a_crash_left(self, tmp_path: Path) -> None:
        data = counting(MEBIBYTE)
        kept = Kept(str(tmp_path), 1, 200_000)
        for at in range(0, len(data), 10_000):
            kept.add(STDOUT, data[at : at + 10_000])
            kept.flush()
        frames, total, complete = gather(tmp_path, 1)
        assert (total, complete) == (len(data), False)
        pieces = [piece for stream, piece in decode(frames) if stream != GAP]
        half = INLINE_BYTES // 2
        assert b"".join(pieces) == data[:half] + data[-half:]

    def test_a_short_one(self, tmp_path: Path) -> None:
        kept = Kept(str(tmp_path), 1, 200_000)
        kept.add(STDERR, b"short")
        kept.flush()
        assert gather(tmp_path, 1) == (b"\2\0\0\0\5short", 5, True)

    def test_none(self, tmp_path: Path) -> None:
        assert gather(tmp_path, 1) == (b"", 0, True)


class TestFolder:
    def test_what_is_there_can_be_removed(self, tmp_path: Path) -> None:
        for run_id in (3, 14):
            kept = Kept(str(tmp_path), run_id, 200_000)
            kept.add(STDOUT, b"x")
            kept.flush()
            spool.sync(tmp_path, run_id)
        assert sorted(spool.swept(tmp_path)) == [3, 14]
        spool.remove(tmp_path, 3)
        spool.remove(tmp_path, 3)
        assert list(spool.swept(tmp_path)) == [14]

    def test_is_nobody_elses_business(self, tmp_path: Path) -> None:
        kept = Kept(str(tmp_path / "outputs"), 1, 200_000)
        kept.add(STDOUT, b"x")
        kept.flush()
        folder = tmp_path / "outputs" / "1"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]

    def test_none(self, tmp_path: Path) -> None:
        assert list(spool.swept(tmp_path / "none")) == []


class TestTrouble:
    def test_a_disk_that_takes_half(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It fills up in the middle of a write, and later there is room again."""
        data = counting(MEBIBYTE)
        kept = Kept(str(tmp_path), 1, 4 * MEBIBYTE)
        kept.add(STDOUT, data[:100_000])
        kept.flush()
        room = [1000]
        write = os.write

        def full(descriptor: int, piece: bytes) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = write(descriptor, piece[: room[0]])
            room[0] -= taken
            return taken

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            kept.add(STDOUT, data[100_000:200_000])
            kept.flush()
        kept.add(STDOUT, data[200_000:])
        frames, in_file = kept.finish()
        assert in_file
        assert kept.total == len(data)
        assert kept.trouble == "Its output could not be kept in full: No space left on device"
        pieces, end = all_of(Reader(tmp_path, 1))
        assert (content(pieces), end) == ((data[:100_000] + data[200_000:], 100_000), len(data))
        assert decode(frames)[-1][1] == data[-INLINE_BYTES // 2 :]

    def test_a_disk_that_is_full_when_the_tail_is_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        limit, whole = 200_000, counting(560_000)
        kept = Kept(str(tmp_path), 1, limit)
        for start in range(0, len(whole), 5000):
            kept.add(STDOUT, whole[start : start + 5000])
        kept.flush()

        def full(descriptor: int, piece: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", full)
        assert kept.finish()[1]
        data, left_out = content(all_of(Reader(tmp_path, 1), limit=10_000)[0])
        assert len(data) + left_out == len(whole)
        assert len(data) >= limit  # rather too much of it than too little
        assert data.endswith(whole[-limit // 2 :])

    def test_a_disk_that_takes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "outputs").write_text("no folder")
        kept = Kept(str(tmp_path / "outputs"), 1, MEBIBYTE)
        data = counting(200_000)
        kept.add(STDOUT, data)
        kept.flush()
        frames, in_file = kept.finish()
        assert not in_file
        assert kept.trouble.startswith("Its output could not be kept in full: ")
        assert [len(piece) for stream, piece in decode(frames) if stream != GAP] == [INLINE_BYTES // 2] * 2

    def test_what_fits_into_memory_is_no_trouble(self, tmp_path: Path) -> None:
        (tmp_path / "outputs").write_text("no folder")
        kept = Kept(str(tmp_path / "outputs"), 1, MEBIBYTE)
        kept.add(STDOUT, b"short")
        kept.flush()
        assert kept.finish() == (b"\1\0\0\0\5short", False)
        assert kept.trouble == ""
