"""How the output of a command is kept: pieces of its two streams, in the order in which they arrived.

A frame is a head of five bytes, the stream's number (1 stdout, 2 stderr, 0 for a gap) and the length of what follows
(big-endian); a gap has eight bytes that say how many bytes were dropped there.
"""

import codecs
import struct
from collections.abc import Iterable, Iterator

GAP, STDOUT, STDERR = 0, 1, 2

HEAD = struct.Struct(">BI")
REPLACED_NUL = "\N{SYMBOL FOR NULL}"  # PostgreSQL's text cannot hold NUL

_COUNT = struct.Struct(">Q")
_LONGEST_CHARACTER = 4  # bytes of UTF-8
_CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that follow a first one


class Frames:
    """Frames that grow at their end, and can be cut at their beginning."""

    __slots__ = ("_last", "_stream", "data", "size")

    def __init__(self) -> None:
        self.data = bytearray()  # encoded
        self.size = 0  # bytes of output in them
        self._last = 0  # where the last frame begins
        self._stream = GAP

    def add(self, stream: int, data: "bytes | memoryview") -> None:
        """Put a piece at the end. What follows a piece of the same stream becomes part of it."""
        if not data:
            return
        if stream == self._stream:
            length = len(self.data) - self._last - HEAD.size + len(data)
            HEAD.pack_into(self.data, self._last, stream, length)
        else:
            self._last = len(self.data)
            self._stream = stream
            self.data += HEAD.pack(stream, len(data))
        self.data += data
        self.size += len(data)

    def cut(self, limit: int) -> int:
        """Drop what came first, until there are at most `limit` bytes of output. Returns how many were dropped."""
        excess = dropped = max(0, self.size - limit)
        at = 0
        while excess:
            stream, length = HEAD.unpack_from(self.data, at)
            if length > excess:  # its head moves to before what stays
                at += excess
                HEAD.pack_into(self.data, at, stream, length - excess)
                break
            excess -= length
            at += HEAD.size + length
        del self.data[:at]
        self.size -= dropped
        if not self.data:
            self._stream = GAP
        self._last = max(0, self._last - at)
        return dropped

    def clear(self) -> None:
        """Drop everything."""
        self.data.clear()
        self.size = self._last = 0
        self._stream = GAP


def gap(dropped: int) -> tuple[int, bytes]:
    """The piece that says that so many bytes were dropped."""
    return GAP, _COUNT.pack(dropped)


def dropped(data: bytes) -> int:
    """How many bytes were dropped, says a gap with this data."""
    return int(_COUNT.unpack(data)[0])


def encode(pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """Frames of (stream, data) pieces."""
    return b"".join(HEAD.pack(stream, len(data)) + data for stream, data in pieces)


def decode(frames: bytes) -> list[tuple[int, bytes]]:
    """The pieces of frames. Raises ValueError for what are none."""
    return list(_pieces(frames))


def _pieces(frames: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(frames):
        if len(frames) - at < HEAD.size:
            raise ValueError("the head of a frame is cut off")
        stream, length = HEAD.unpack_from(frames, at)
        at += HEAD.size
        data = bytes(frames[at : at + length])
        at += length
        if stream not in (GAP, STDOUT, STDERR):
            raise ValueError(f"there is no stream {stream}")
        if len(data) < length or (stream == GAP and length != _COUNT.size):
            raise ValueError("a frame has not the length that its head says")
        yield stream, data


def readable(frames: bytes) -> tuple[str, bool]:
    """The output for a person, both streams together, and whether something was left out: in a gap, and said so.

    What is no UTF-8 is shown as U+FFFD, NUL as U+2400.
    """
    text = ""
    left_out = 0
    part = _Part(after_gap=False)
    for stream, data in _pieces(frames):
        if stream != GAP:
            part.add(stream, data)
            continue
        text = _joined(text, left_out, part)
        left_out = dropped(data) + part.cut_off
        part = _Part(after_gap=True)
    text = _joined(text, left_out, part, last=True)
    return text.replace("\0", REPLACED_NUL), left_out > 0


def _joined(text: str, left_out: int, part: "_Part", *, last: bool = False) -> str:
    following = part.text(last=last)
    if not left_out:
        return text + following
    join = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{join}… {left_out + part.not_begun} bytes left out …\n{following}"


class _Part:
    """The text between two gaps. A character that a gap cut is left out altogether."""

    def __init__(self, *, after_gap: bool) -> None:
        self.not_begun = 0  # bytes at its beginning that belong to a character before
        self.cut_off = 0  # bytes at its end that begin a character
        self._after_gap = after_gap
        self._texts: list[str] = []
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}  # a character may lie in two pieces of a stream

    def add(self, stream: int, data: bytes) -> None:
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
            if self._after_gap:
                whole = _without_broken_start(data)
                self.not_begun += len(data) - len(whole)
                data = whole
        self._texts.append(decoder.decode(data))

    def text(self, *, last: bool) -> str:
        for decoder in self._decoders.values():
            if last:
                self._texts.append(decoder.decode(b"", final=True))
            else:
                self.cut_off += len(decoder.getstate()[0])
        return "".join(self._texts)


def _without_broken_start(data: bytes) -> bytes:
    """Without the rest of a character whose beginning was cut off."""
    for size in range(min(_LONGEST_CHARACTER, len(data))):
        if data[size] not in _CONTINUATION:
            return data[size:]
    return data


def needs_frames(frames: bytes) -> bool:
    """Is there something that `readable` cannot say: stderr, a gap, or what is no text?"""
    pieces = decode(frames)
    if any(stream != STDOUT for stream, _ in pieces):
        return True
    whole = b"".join(data for _, data in pieces)
    if b"\0" in whole:
        return True
    try:
        whole.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False
