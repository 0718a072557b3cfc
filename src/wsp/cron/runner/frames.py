"""How the output of a command is kept: pieces of its two streams, in the order in which they arrived.

A frame is a head of five bytes, the stream's number (1 stdout, 2 stderr, 0 for a gap) and the length of what follows
(big-endian); a gap has eight bytes that say how many bytes were dropped there.
"""

from collections.abc import Iterable

GAP, STDOUT, STDERR = 0, 1, 2


def encode(pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """Frames of (stream, data) pieces."""
    raise NotImplementedError


def decode(frames: bytes) -> list[tuple[int, bytes]]:
    """The pieces of frames. Raises ValueError for what are none."""
    raise NotImplementedError


def readable(frames: bytes) -> tuple[str, bool]:
    """The output for a person, both streams together, and whether something was left out: in a gap, and said so.

    What is no UTF-8 is shown as U+FFFD, NUL as U+2400.
    """
    raise NotImplementedError


def needs_frames(frames: bytes) -> bool:
    """Is there something that `readable` cannot say: two streams, a gap, or what is no text?"""
    raise NotImplementedError
