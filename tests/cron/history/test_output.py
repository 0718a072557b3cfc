"""Outputs of runs: where they are found, places in them, and what becomes of their bytes as text."""

import random
from pathlib import Path
from typing import Any

import pytest

from wsp.cron.history.output import Decoder, Measure, Piece, RunOutput, as_text, joined, kept_bytes, of_stream
from wsp.cron.models import JobRun
from wsp.cron.runner import spool
from wsp.cron.runner.frames import GAP, STDERR, STDOUT, encode, gap, readable
from wsp.errors import Invalid

RUN = 17


def run_of(status: str = "succeeded", **values: Any) -> JobRun:
    return JobRun(**{"id": RUN, "job_id": 5, "status": status, "node": "here", "output": "", **values})


def output_of(run: JobRun, folder: Path = Path("nowhere")) -> RunOutput:
    return RunOutput(run, folder, "here")


def write(folder: Path, offset: int, *pieces: tuple[int, bytes], run_id: int = RUN) -> None:
    path = Path(spool.run_folder(folder, run_id))
    path.mkdir(parents=True, exist_ok=True)
    with open(path / spool.segment_name(offset), "ab") as file:
        file.write(encode(pieces))


def bytes_of(output: RunOutput, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(piece.data for piece in output.pieces(start, end))


LONG = encode([(STDOUT, b"head\n"), gap(1000), (STDERR, b"tail\n")])


class TestWhereItIs:
    def test_a_short_text_lies_in_the_row(self) -> None:
        output = output_of(run_of(output="grün\n"))
        assert list(output.pieces()) == [Piece(0, STDOUT, "grün\n".encode(), 6)]
        assert output.excerpt == ""

    def test_what_no_text_can_say_lies_in_frames(self) -> None:
        output = output_of(run_of(output="whatever", output_frames=encode([(STDOUT, b"\xff\0"), (STDERR, b"oh")])))
        assert list(output.pieces()) == [Piece(0, STDOUT, b"\xff\0", 2), Piece(2, STDERR, b"oh", 2)]

    def test_a_long_one_lies_in_files(self, tmp_path: Path) -> None:
        write(tmp_path, 0, (STDOUT, b"all of it"))
        output = output_of(run_of(output="x", output_frames=LONG, output_in_file=True), tmp_path)
        assert (bytes_of(output), output.excerpt) == (b"all of it", "")

    @pytest.mark.parametrize(("node", "sentence"), [("here", "not there any more"), ("there", "another machine")])
    def test_without_its_files_there_is_the_excerpt(self, tmp_path: Path, node: str, sentence: str) -> None:
        output = output_of(run_of(output="x", output_frames=LONG, output_in_file=True, node=node), tmp_path)
        assert bytes_of(output) == b"head\ntail\n"
        assert sentence in output.excerpt

    def test_another_machines_files_are_not_taken_for_its_own(self, tmp_path: Path) -> None:
        write(tmp_path, 0, (STDOUT, b"of another run with this number"))
        output = output_of(run_of(output="x", output_frames=LONG, output_in_file=True, node="there"), tmp_path)
        assert bytes_of(output) == b"head\ntail\n"

    def test_one_that_goes_on_is_read_as_far_as_it_is(self, tmp_path: Path) -> None:
        output = output_of(run_of("running"), tmp_path)
        assert bytes_of(output) == b""
        write(tmp_path, 0, (STDOUT, b"one\n"))
        assert bytes_of(output) == b"one\n"
        write(tmp_path, 0, (STDERR, b"two\n"))
        assert bytes_of(output, 4) == b"two\n"
        assert bytes_of(output) == b"one\ntwo\n"

    def test_one_that_goes_on_elsewhere(self, tmp_path: Path) -> None:
        output = output_of(run_of("running", node="there"), tmp_path)
        assert bytes_of(output) == b""
        assert "when it has ended" in output.excerpt

    def test_more_than_is_read_at_a_time(self, tmp_path: Path) -> None:
        whole = random.Random(1).randbytes(300_000)
        for start in range(0, len(whole), 1000):
            write(tmp_path, start // 100_000 * 100_000, (STDOUT, whole[start : start + 1000]))
        output = output_of(run_of(output_in_file=True), tmp_path)
        assert bytes_of(output) == whole
        assert bytes_of(output, 123_456, 234_567) == whole[123_456:234_567]
        assert len(output.following(0)) < 300


class TestPlaces:
    OUTPUT = output_of(run_of(output_frames=LONG))

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, None, [Piece(0, STDOUT, b"head\n", 5), Piece(5, GAP, b"", 1000), Piece(1005, STDERR, b"tail\n", 5)]),
            (2, 4, [Piece(2, STDOUT, b"ad", 2)]),
            (4, 6, [Piece(4, STDOUT, b"\n", 1), Piece(5, GAP, b"", 1000)]),
            (500, 1006, [Piece(500, GAP, b"", 505), Piece(1005, STDERR, b"t", 1)]),
            (1010, None, []),
            (5000, None, []),
        ],
    )
    def test_a_part(self, start: int, end: int | None, expected: list[Piece]) -> None:
        assert list(self.OUTPUT.pieces(start, end)) == expected

    def test_measure(self) -> None:
        assert Measure.of(self.OUTPUT.pieces()) == Measure(1010, 10, 1000)
        assert Measure.of(of_stream(self.OUTPUT.pieces(), "stdout")).kept == 5

    def test_bytes_without_what_was_left_out(self) -> None:
        assert b"".join(kept_bytes(self.OUTPUT.pieces(), 0, 10)) == b"head\ntail\n"
        assert b"".join(kept_bytes(self.OUTPUT.pieces(), 3, 7)) == b"d\nta"

    def test_neighbours_are_joined(self) -> None:
        pieces = [Piece(n, STDERR if n == 3 else STDOUT, b"x", 1) for n in range(7)]
        assert [(piece.at, piece.data) for piece in joined(pieces, 2)] == [
            (0, b"xx"),
            (2, b"x"),
            (3, b"x"),
            (4, b"xx"),
            (6, b"x"),
        ]


class TestText:
    def text(self, *framed: tuple[int, bytes]) -> str:
        return "".join(as_text(output_of(run_of(output_frames=encode(framed))).pieces()))

    def test_a_character_in_two_pieces_of_its_stream(self) -> None:
        assert self.text((STDOUT, b"a\xe2\x82"), (STDERR, b"!"), (STDOUT, b"\xacb")) == "a!€b"

    def test_what_is_no_text(self) -> None:
        assert self.text((STDOUT, b"a\xff\0b\xe2\x82")) == "a\ufffd\u2400b\ufffd"

    @pytest.mark.parametrize(
        "framed",
        [
            [(STDOUT, b"head"), gap(10), (STDOUT, b"tail")],
            [(STDOUT, b"head\n"), gap(10), (STDOUT, b"tail\n")],
            [(STDOUT, b"he\xe2\x82"), gap(10), (STDOUT, b"\x82\xactail")],
            [(STDOUT, b"head"), gap(10)],
            [gap(10), (STDERR, b"tail")],
            [(STDOUT, b"\xe2"), (STDERR, b"x\xf0\x9f"), gap(10), (STDOUT, b"tail")],
            [(STDOUT, b"\0\xff")],
            [],
        ],
    )
    def test_says_what_the_row_says(self, framed: list[tuple[int, bytes]]) -> None:
        assert self.text(*framed) == readable(encode(framed))[0]


class TestPages:
    @pytest.mark.parametrize("limit", range(4, 12))
    def test_tear_no_character(self, limit: int) -> None:
        whole = "aß€😀 grün €€ und 😀\n"
        output, text, place = output_of(run_of(output=whole)), "", 0
        while (end := output.page_end(place, limit)) > place:
            assert end - place <= limit
            text, place = text + "".join(as_text(output.pieces(place, end))), end
        assert text == whole

    def test_wait_for_the_rest_of_a_character(self, tmp_path: Path) -> None:
        write(tmp_path, 0, (STDOUT, b"a\xe2"), (STDOUT, b"\x82"))
        going_on = output_of(run_of("running"), tmp_path)
        assert going_on.page_end(0, None) == 1
        assert going_on.page_end(1, None) == 1
        write(tmp_path, 0, (STDOUT, b"\xac"))
        assert output_of(run_of("running"), tmp_path).page_end(1, None) == 4

    def test_end_where_the_output_ends(self) -> None:
        output = output_of(run_of(output_frames=encode([(STDOUT, b"a\xe2\x82"), gap(9), (STDERR, b"b\xe2")])))
        assert output.page_end(0, None) == output.page_end(0, 100) == 14
        assert output.page_end(0, 3) == 1
        assert output.page_end(1, 1) == 2  # shorter than a character: it goes on nevertheless
        assert output.page_end(3, 1) == 12
        assert output.page_end(14, 5) == 14
        assert output.page_end(50, 5) == 50


class TestDecoder:
    def test_goes_on_wherever_it_stopped(self) -> None:
        rng = random.Random(4)
        whole = "aß€😀\0".encode() * 40
        pieces, at = [], 0
        while at < len(whole):
            size = rng.randint(1, 4)
            pieces.append(Piece(at, STDOUT, whole[at : at + size], min(size, len(whole) - at)))
            at += size
        decoder, text = Decoder(), ""
        for piece in pieces:
            text += decoder.text(piece)
            decoder = Decoder.resumed(decoder.mark, field="from")
            assert decoder.place == piece.end
        assert text == "aß€😀\u2400" * 40

    def test_both_streams_may_be_in_the_middle_of_a_character(self) -> None:
        decoder = Decoder()
        assert decoder.text(Piece(0, STDOUT, b"\xe2\x82", 2)) == ""
        assert decoder.text(Piece(2, STDERR, b"x\xf0\x9f\x98", 4)) == "x"
        assert decoder.mark == "6.oe282.ef09f98"
        decoder = Decoder.resumed(decoder.mark, field="from")
        assert decoder.text(Piece(6, STDERR, b"\x80", 1)) == "😀"
        assert decoder.text(Piece(7, STDOUT, b"\xac", 1)) == "€"
        assert decoder.mark == "8"

    @pytest.mark.parametrize("mark", ["", "x", "-1", "1.", "1.o", "1.oe", "1.oe28282e2", "1.e82.o82", "1" * 19])
    def test_what_is_no_mark(self, mark: str) -> None:
        with pytest.raises(Invalid, match="Last-Event-ID must be the id of an event"):
            Decoder.resumed(mark, field="Last-Event-ID")
