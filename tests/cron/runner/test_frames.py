"""Output as it is kept: frames, and what a person is shown of them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsp.cron.runner.excerpt import Excerpt
from wsp.cron.runner.frames import (
    GAP,
    STDERR,
    STDOUT,
    Frames,
    decode,
    dropped,
    encode,
    gap,
    needs_frames,
    readable,
)

PIECES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=50)))


def excerpt(chunks: list[bytes], limit: int) -> bytes:
    kept = Excerpt(limit)
    for chunk in chunks:
        kept.add(STDOUT, chunk)
    return kept.frames()


def bytes_of(frames: bytes) -> bytes:
    return b"".join(data for stream, data in decode(frames) if stream != GAP)


class TestDecode:
    def test_there_and_back(self) -> None:
        pieces = [(STDOUT, b"one\n"), (STDERR, b"\xff\0"), gap(2**40), (STDOUT, b"end")]
        assert decode(encode(pieces)) == pieces
        assert dropped(pieces[2][1]) == 2**40

    @pytest.mark.parametrize(
        "frames",
        [b"\1", b"\1\0\0\0\2a", b"\3\0\0\0\1a", b"\0\0\0\0\1a", encode([(STDOUT, b"abc")])[:-1]],
        ids=["half a head", "too short", "no such stream", "a gap without a count", "cut"],
    )
    def test_what_are_no_frames(self, frames: bytes) -> None:
        with pytest.raises(ValueError, match=r"frame|stream"):
            decode(frames)


class TestFrames:
    @given(PIECES)
    def test_hold_what_was_added_and_join_what_belongs_together(self, pieces: list[tuple[int, bytes]]) -> None:
        frames = Frames()
        for piece in pieces:
            frames.add(*piece)
        found = decode(bytes(frames.data))
        assert [stream for stream, data in found for _ in data] == [stream for stream, data in pieces for _ in data]
        assert b"".join(data for _, data in found) == b"".join(data for _, data in pieces)
        assert all(first[0] != second[0] for first, second in pairwise(found))

    @given(PIECES, st.integers(min_value=0, max_value=200), PIECES)
    def test_are_cut_at_their_beginning(
        self, pieces: list[tuple[int, bytes]], limit: int, later: list[tuple[int, bytes]]
    ) -> None:
        frames = Frames()
        for piece in pieces:
            frames.add(*piece)
        whole = bytes_of(bytes(frames.data))
        assert frames.cut(limit) == max(0, len(whole) - limit)
        for piece in later:
            frames.add(*piece)
        expected = whole[max(0, len(whole) - limit) :] + b"".join(data for _, data in later)
        assert bytes_of(bytes(frames.data)) == expected
        assert frames.size == len(expected)


class TestReadable:
    def test_both_streams_in_the_order_of_their_arrival(self) -> None:
        assert readable(encode([(STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three")])) == (
            "one\ntwo\nthree",
            False,
        )

    def test_a_gap_is_a_line_that_says_so(self) -> None:
        frames = encode([(STDOUT, b"HEAD"), gap(1000), (STDERR, b"TAIL")])
        assert readable(frames) == ("HEAD\n… 1000 bytes left out …\nTAIL", True)

    def test_several_gaps(self) -> None:
        frames = encode([gap(1), (STDOUT, b"a\n"), gap(2), (STDOUT, b"b\n"), gap(3)])
        assert readable(frames)[0] == ("… 1 bytes left out …\na\n… 2 bytes left out …\nb\n… 3 bytes left out …\n")

    def test_nul_becomes_visible(self) -> None:
        assert readable(encode([(STDOUT, b"a\0b")]))[0] == "a\N{SYMBOL FOR NULL}b"

    def test_what_is_no_text_is_replaced(self) -> None:
        assert readable(encode([(STDOUT, b"\xff\xfea")]))[0] == "\N{REPLACEMENT CHARACTER}" * 2 + "a"
        assert readable(encode([(STDOUT, "é".encode()[:1])]))[0] == "\N{REPLACEMENT CHARACTER}"

    def test_a_character_split_between_pieces_is_whole(self) -> None:
        first, second = "é".encode()[:1], "é".encode()[1:]
        assert readable(encode([(STDOUT, first), (STDERR, b"!"), (STDOUT, second)]))[0] == "!é"


class TestExcerpt:
    def test_all_of_it_when_it_fits(self) -> None:
        assert readable(excerpt([b"one\n", b"two"], 7)) == ("one\ntwo", False)

    def test_head_and_tail_when_it_does_not(self) -> None:
        text, left_out = readable(excerpt([b"HEAD\n", b"x" * 1000, b"\nTAIL"], 10))
        assert (text, left_out) == ("HEAD\n… 1000 bytes left out …\n\nTAIL", True)

    @pytest.mark.parametrize("limit", range(8, 40))
    def test_a_cut_never_splits_a_character(self, limit: int) -> None:
        text, _ = readable(excerpt(["aé€😀".encode() * 50], limit))
        assert "\N{REPLACEMENT CHARACTER}" not in text
        shown = len(text.partition("…")[0].rstrip("\n").encode()) + len(text.rpartition("…\n")[2].encode())
        assert f"… {len('aé€😀'.encode()) * 50 - shown} bytes" in text

    @given(st.lists(st.binary(max_size=50)), st.integers(min_value=2, max_value=100))
    def test_kept_and_left_out_add_up(self, chunks: list[bytes], limit: int) -> None:
        whole = b"".join(chunks)
        frames = excerpt(chunks, limit)
        kept = bytes_of(frames)
        if len(whole) <= limit:
            assert kept == whole
        else:
            assert kept == whole[: limit // 2] + whole[len(whole) - (limit - limit // 2) :]
            assert [dropped(data) for stream, data in decode(frames) if stream == GAP] == [len(whole) - limit]

    def test_memory_is_bounded_by_the_limit(self) -> None:
        kept = Excerpt(1000)
        for n in range(100_000):
            kept.add(STDOUT + n % 2, b"x")
        assert len(kept._head.data) + len(kept._tail.data) < 20_000


class TestNeedsFrames:
    @pytest.mark.parametrize(
        ("pieces", "needed"),
        [
            ([], False),
            ([(STDOUT, "é€\n".encode())], False),
            ([(STDOUT, b"\xc3"), (STDOUT, b"\xa9")], False),
            ([(STDERR, b"a")], True),
            ([(STDOUT, b"a"), (STDERR, b"a")], True),
            ([(STDOUT, b"a"), gap(1), (STDOUT, b"a")], True),
            ([(STDOUT, b"a\0")], True),
            ([(STDOUT, b"\xff")], True),
        ],
    )
    def test_it(self, pieces: list[tuple[int, bytes]], needed: bool) -> None:
        assert needs_frames(encode(pieces)) is needed
