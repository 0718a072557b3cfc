"""What the command of a run has written, wherever it is kept: in its row, or in a folder of the runner.

Places in an output are counted in bytes of all that was written, kept or not: what was left out between head and tail
has its place too. So a place stays right while a run goes on, and after it.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from wsp.cron.models import RUNNING, JobRun
from wsp.cron.runner.frames import GAP, REPLACED_NUL, STDERR, STDOUT, decode, dropped
from wsp.cron.runner.spool import Reader, run_folder
from wsp.errors import Invalid

Stream = Literal["all", "stdout", "stderr"]

NEW_LINE = "\n"
LONGEST_CHARACTER = 4  # bytes of UTF-8
NAMES = {STDOUT: "stdout", STDERR: "stderr"}

ELSEWHERE = "The whole output lies on another machine"
GONE = "The whole output is not there any more"
NOT_YET = "The run goes on at another machine, and its output is shown when it has ended"

READ_BYTES = 64 * 1024

_PENDING = r"((?:[0-9a-f]{2}){1,3})"
_PLACE = re.compile(rf"(\d{{1,18}})(?:\.o{_PENDING})?(?:\.e{_PENDING})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one stream, or a gap: then `data` is empty and `size` is what was left out."""

    at: int
    stream: int
    data: bytes
    size: int

    @property
    def end(self) -> int:
        """The place after it."""
        return self.at + self.size


class RunOutput:
    """The output of a run whose row was read: all of it, or of a run that goes on what there is by now."""

    def __init__(self, run: JobRun, folder: Path, node: str) -> None:
        """`folder` is where the runners of the machine `node`, which is this one, keep outputs."""
        here = run.node in ("", node)
        self.excerpt = ""
        """Why this is not all that was kept: a sentence, or empty."""
        self._reader: Reader | None = None
        if run.status == RUNNING and here:
            self._reader = Reader(folder, run.id)
        elif run.status == RUNNING:
            self.excerpt = NOT_YET
        elif run.output_in_file and here and Path(run_folder(folder, run.id)).is_dir():
            self._reader = Reader(folder, run.id)
        elif run.output_in_file:
            self.excerpt = GONE if here else ELSEWHERE
        self._goes_on = run.status == RUNNING
        self._text, self._frames = run.output, run.output_frames

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Piece]:
        """What of it lies from the place `start` on, and before `end`. Reads files: blocks. Raises OSError."""
        while found := self.following(start):
            yield from part_of(found, start, end)
            start = found[-1].end
            if end is not None and start >= end:
                return

    def page_end(self, start: int, limit: int | None) -> int:
        """Where a page that begins at the place `start` ends, after `limit` bytes or little more.

        Before a character of which the rest comes later, if that is not all of it.
        """
        end = Measure.of(self.pieces(start, None if limit is None else start + limit)).end
        if end <= start:
            return start
        last = list(self.pieces(max(start, end - LONGEST_CHARACTER + 1), end))
        stream, data = last[-1].stream, b""
        for piece in reversed(last):
            if piece.stream != stream:
                break
            data = piece.data + data
        begun = _begun(data)
        waits = self._goes_on and (limit is None or end - start < limit)
        if waits or (end - begun > start and next(self.pieces(end), None) is not None):
            return end - begun
        return end

    def following(self, start: int) -> list[Piece]:
        """The pieces from the place `start` on, as many as are read at a time; nothing when there is no more."""
        if self._reader is not None:
            found, _ = self._reader.read(start, READ_BYTES)
            return [_piece(*each) for each in found]
        return list(part_of(self._from_row(), start))

    def _from_row(self) -> Iterator[Piece]:
        at = 0
        for stream, data in [(STDOUT, self._text.encode())] if self._frames is None else decode(self._frames):
            piece = _piece(at, stream, data)
            yield piece
            at = piece.end


def _piece(at: int, stream: int, data: bytes) -> Piece:
    return Piece(at, GAP, b"", dropped(data)) if stream == GAP else Piece(at, stream, data, len(data))


def part_of(pieces: Iterable[Piece], start: int, end: int | None = None) -> Iterator[Piece]:
    """What of the pieces lies from the place `start` on, and before `end`; a gap that begins before it is whole."""
    for piece in pieces:
        if end is not None and piece.at >= end:
            return
        first = max(piece.at, start)
        last = piece.end if end is None or piece.stream == GAP else min(piece.end, end)
        if first < last:
            yield Piece(first, piece.stream, piece.data[first - piece.at : last - piece.at], last - first)


def of_stream(pieces: Iterable[Piece], stream: Stream) -> Iterator[Piece]:
    """The pieces of one stream, and the gaps."""
    return (piece for piece in pieces if piece.stream == GAP or stream in ("all", NAMES[piece.stream]))


def joined(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """The same with neighbours of one stream in one piece, of `most` bytes or little more."""
    waiting: list[Piece] = []
    size = 0
    for piece in chain(pieces, (None,)):
        if waiting and (piece is None or piece.stream != waiting[0].stream or size >= most):
            yield Piece(waiting[0].at, waiting[0].stream, b"".join(each.data for each in waiting), size)
            waiting, size = [], 0
        if piece is not None:
            waiting.append(piece)
            size += piece.size


class Decoder:
    """Makes text of pieces. A character whose bytes come in several pieces of its stream is one character.

    What is no UTF-8 becomes U+FFFD, NUL becomes U+2400.
    """

    def __init__(self, place: int = 0, pending: tuple[bytes, bytes] = (b"", b"")) -> None:
        self.place = place
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in NAMES}
        for stream, begun in zip(NAMES, pending, strict=True):
            self._decoders[stream].decode(begun)

    @classmethod
    def resumed(cls, mark: str, *, field: str) -> "Decoder":
        """One that goes on where another one said its `mark`. Raises Invalid, naming the field, for what is none."""
        found = _PLACE.fullmatch(mark)
        if found is None:
            raise Invalid(f"{field} must be the id of an event of this stream, or a number of bytes", field=field)
        place, stdout, stderr = found.groups(default="")
        return cls(int(place), (bytes.fromhex(stdout), bytes.fromhex(stderr)))

    @property
    def mark(self) -> str:
        """Where it is: the place, and the characters whose ends it waits for."""
        return f"{self.place}" + "".join(
            f".{NAMES[stream][3]}{begun.hex()}"
            for stream, decoder in self._decoders.items()
            if (begun := decoder.getstate()[0])
        )

    def text(self, piece: Piece) -> str:
        """The text of the next piece, which is not a gap. Empty when it has but a part of a character."""
        self.place = piece.end
        return _shown(self._decoders[piece.stream].decode(piece.data))

    def forget(self) -> int:
        """Forget characters that are not finished. Returns how many bytes of them there were."""
        forgotten = sum(len(decoder.getstate()[0]) for decoder in self._decoders.values())
        for decoder in self._decoders.values():
            decoder.reset()
        return forgotten

    def rest(self) -> Iterator[tuple[int, str]]:
        """(stream, text) of characters that were never finished."""
        for stream, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                yield stream, text
            decoder.reset()


def _shown(text: str) -> str:
    return text.replace("\0", REPLACED_NUL)


def _begun(data: bytes) -> int:
    """How many bytes at its end begin a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(decoder.getstate()[0])


def as_text(pieces: Iterable[Piece]) -> Iterator[str]:
    """The pieces for a person, with a line where something was left out: with it, characters that were cut there."""
    decoder = Decoder()
    left_out = 0
    ends_line = True
    for piece in pieces:
        if piece.stream == GAP:
            left_out += piece.size + decoder.forget()
            continue
        before = ""
        if left_out:
            cut, piece = after_gap(piece)
            before = _left_out_line(left_out + cut, ends_line=ends_line)
            left_out = 0
        if text := before + decoder.text(piece):
            ends_line = text.endswith("\n")
            yield text
    if left_out:
        yield _left_out_line(left_out, ends_line=ends_line)
    yield from (text for _, text in decoder.rest())


def _left_out_line(size: int, *, ends_line: bool) -> str:
    return f"{'' if ends_line else NEW_LINE}… {size} bytes left out …\n"


def after_gap(piece: Piece) -> tuple[int, Piece]:
    """How many bytes at its beginning belong to a character that a gap cut, and the piece without them."""
    most = min(len(piece.data), LONGEST_CHARACTER - 1)
    cut = next((size for size in range(most) if piece.data[size] & 0xC0 != 0x80), most)
    return cut, Piece(piece.at + cut, piece.stream, piece.data[cut:], piece.size - cut)


def kept_bytes(pieces: Iterable[Piece], first: int, last: int) -> Iterator[bytes]:
    """What is kept, as it was written: of these bytes those from `first` on and before `last`."""
    at = 0
    for piece in pieces:
        if at >= last:
            return
        if part := piece.data[max(0, first - at) : last - at]:
            yield part
        at += len(piece.data)


def gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same in parts that are worth a call each."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= READ_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


@dataclass(frozen=True, slots=True)
class Measure:
    """Of a part of an output: the place where it ends, and how many bytes of it are kept, and left out."""

    end: int
    kept: int
    left_out: int

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> "Measure":
        """Goes through all of them."""
        end = kept = left_out = 0
        for piece in pieces:
            end = piece.end
            kept += len(piece.data)
            left_out += piece.size - len(piece.data)
        return cls(end, kept, left_out)
