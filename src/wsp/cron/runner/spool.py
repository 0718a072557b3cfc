"""Where the output of runs lies in files: written by the runner, read by whoever shows it, also meanwhile.

    <folder>/<run id>/<offset, 20 digits>     segments: frames, the first of them begins at that byte of the output

Offsets count every byte that the command wrote, both streams together, those that were dropped included. So where a
segment begins later than the one before ends, bytes were dropped. Segments only grow, and go as a whole.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from wsp.cron.runner.excerpt import INLINE_BYTES, Excerpt
from wsp.cron.runner.frames import GAP, HEAD, gap

READ_BYTES = 1024 * 1024

_NAME_DIGITS = 20


def run_folder(folder: "str | os.PathLike[str]", run_id: int) -> str:
    """Where the segments of a run lie."""
    return os.path.join(folder, str(run_id))


def segment_name(offset: int) -> str:
    """The name of the segment that begins at this byte of the output."""
    return f"{offset:0{_NAME_DIGITS}}"


class Reader:
    """Reads the output of one run, from any byte on, while it is written or later. Remembers where it was."""

    def __init__(self, folder: "str | os.PathLike[str]", run_id: int) -> None:
        """`folder` is that of all outputs."""
        self._folder = run_folder(folder, run_id)
        self._segment = -1
        self._position = 0  # in the file of that segment, where a frame begins
        self._offset = 0  # of that frame

    def read(self, offset: int, limit: int = READ_BYTES) -> tuple[list[tuple[int, int, bytes]], int]:
        """Pieces (offset, stream, data) from byte `offset` on, about `limit` bytes, and the offset that follows.

        Bytes that were dropped are a piece of stream GAP (see frames.dropped). Nothing, and the same offset, when
        there is no more yet, or at all; also for a run without files: a short output never gets any.
        """
        pieces: list[tuple[int, int, bytes]] = []
        size = 0
        while size < limit:
            start, following = self._segments_around(offset)
            found = self._read_segment(start, offset, limit - size) if start is not None else []
            if found:
                pieces += found
                offset = found[-1][0] + len(found[-1][2])
                size += sum(len(data) for _, _, data in found)
            elif following is not None:
                pieces.append((offset, *gap(following - offset)))
                offset = following
            else:
                break
        return pieces, offset

    def _segments_around(self, offset: int) -> tuple[int | None, int | None]:
        """The last segment that begins at or before `offset`, and the first one after it."""
        starts = _segments(self._folder)
        if starts and starts[0] <= offset < starts[-1]:
            # A listing may miss what was made while it was read, but not twice: what follows was made later.
            starts = sorted({*starts, *_segments(self._folder)})
        before = [start for start in starts if start <= offset]
        return (before[-1] if before else None), (starts[len(before)] if len(before) < len(starts) else None)

    def _read_segment(self, start: int, offset: int, limit: int) -> list[tuple[int, int, bytes]]:
        pieces: list[tuple[int, int, bytes]] = []
        if start != self._segment or offset < self._offset:
            self._segment, self._position, self._offset = start, 0, start
        try:
            file = open(os.path.join(self._folder, segment_name(start)), "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:  # just dropped
            return pieces
        with file:
            while limit > 0:
                file.seek(self._position)
                head = file.read(HEAD.size)
                if len(head) < HEAD.size:
                    break
                stream, length = HEAD.unpack(head)
                end = self._offset + length
                if end > offset:
                    data = file.read(length)
                    if len(data) < length:  # being written just now
                        break
                    data = data[max(0, offset - self._offset) :]
                    pieces.append((end - len(data), stream, data))
                    limit -= len(data)
                self._offset = end
                self._position += HEAD.size + length
        return pieces


def gather(folder: "str | os.PathLike[str]", run_id: int, limit: int = INLINE_BYTES) -> tuple[bytes, int, bool]:
    """What the files of a run say, for one whose runner died: frames of at most `limit` bytes of output with a gap
    for the rest, how many bytes it wrote in all as far as is known, and whether the frames are all that is kept.
    """
    reader = Reader(folder, run_id)
    kept = Excerpt(limit)
    size = offset = 0
    while True:
        pieces, offset = reader.read(offset)
        if not pieces:
            return kept.frames(), offset, size <= limit
        for _, stream, data in pieces:
            if stream == GAP:
                kept.skip(int.from_bytes(data, "big"))
            else:
                kept.add(stream, data)
                size += len(data)


def sync(folder: "str | os.PathLike[str]", run_id: int) -> None:
    """Have the files of a run survive a loss of power. Blocks for a disk. Raises OSError."""
    path = run_folder(folder, run_id)
    for name in [*map(segment_name, _segments(path)), "."]:
        descriptor = os.open(os.path.join(path, name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(folder: "str | os.PathLike[str]", run_id: int) -> None:
    """Remove what is kept of a run's output. Does nothing when there is nothing. Raises OSError."""
    path = run_folder(folder, run_id)
    with suppress(FileNotFoundError):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def swept(folder: "str | os.PathLike[str]") -> Iterator[int]:
    """The ids of the runs that have files in this folder, in no order. They may go on."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def _segments(folder: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    except FileNotFoundError:
        return []
