"""Keeps the output of a run that goes on: an excerpt in memory, and all that may be kept in files.

A run that is short and quiet never touches the disk. Of any other, what came within the last FLUSH_SECONDS is in
memory alone; so who reads the files sees it soon, and a crash leaves what was written.
"""

import os
from collections import deque

from wsp.cron.runner.excerpt import INLINE_BYTES, Excerpt
from wsp.cron.runner.frames import Frames, decode
from wsp.cron.runner.spool import run_folder, segment_name

FLUSH_SECONDS = 0.1

_BUFFER_BYTES = 65536
_SEGMENT_BYTES = 256 * 1024  # files that come and go with the tail cost more the smaller they are
_LARGEST_SEGMENT_BYTES = 1024 * 1024  # is read and written anew when only its end is to be kept


class Kept:
    """The output of one run: its head and its tail, `limit` bytes at most. Never raises OSError: it has `trouble`."""

    __slots__ = (
        "_buffer",
        "_buffer_at",
        "_excerpt",
        "_folder",
        "_head_limit",
        "_made",
        "_segment",
        "_segment_bytes",
        "_tail",
        "_tail_limit",
        "_tail_size",
        "limit",
        "trouble",
    )

    def __init__(self, folder: str, run_id: int, limit: int) -> None:
        """`folder` is that of all outputs."""
        self.limit = limit
        self.trouble = ""
        """A sentence, when the disk did not take something."""
        self._folder = run_folder(folder, run_id)
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._excerpt = Excerpt(min(limit, INLINE_BYTES))
        self._buffer = Frames()  # not in a file yet
        self._buffer_at = 0  # the offset of its first byte
        self._made = False  # the folder
        self._segment_bytes = min(max(_SEGMENT_BYTES, self._tail_limit // 8), _LARGEST_SEGMENT_BYTES)
        self._segment = (0, 0, 0)  # the newest one: its offset, its bytes of output, the length of the file
        self._tail: deque[tuple[int, int]] = deque()  # segments of the tail before that one: offset, bytes of output
        self._tail_size = 0

    @property
    def total(self) -> int:
        """All bytes that were added."""
        return self._excerpt.total

    @property
    def in_files(self) -> bool:
        """Is something of it in files?"""
        return self._made

    def add(self, stream: int, data: bytes) -> bool:
        """Take the next bytes. Returns whether some wait to be flushed that did not before."""
        waited = self._buffer.size > 0
        self._excerpt.add(stream, data)
        self._buffer.add(stream, data)
        if self._buffer.size > _BUFFER_BYTES:
            if self._tail_limit <= _BUFFER_BYTES and self._buffer_at >= self._head_limit:
                # The rest would be dropped from the files a moment later.
                self._buffer_at += self._buffer.cut(self._tail_limit)
            else:
                self.flush()
        return not waited and self._buffer.size > 0

    def flush(self) -> None:
        """Write what waits to files. What they do not take is lost, but for the excerpt."""
        size = self._buffer.size
        if not size:
            return
        room = self._head_limit - self._buffer_at
        if 0 < room < size:  # segments are either of the head, which stays, or of the tail
            head, tail = Frames(), Frames()
            for stream, data in decode(bytes(self._buffer.data)):
                head.add(stream, data[: max(0, room)])
                tail.add(stream, data[max(0, room) :])
                room -= len(data)
            self._write(head)
            self._write(tail)
        else:
            self._write(self._buffer)
        self._buffer.clear()

    def _write(self, frames: Frames) -> None:
        at = self._buffer_at
        self._buffer_at += frames.size
        start, size, length = self._segment
        if at != start + size or size >= self._segment_bytes or (start < self._head_limit <= at):
            self._close_segment()
            start, size, length = at, 0, 0
        try:
            if not self._made:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                self._made = True
            _append(os.path.join(self._folder, segment_name(start)), bytes(frames.data), length)
        except OSError as error:
            self.trouble = f"Its output could not be kept in full: {error.strerror}"
            if self._tail:  # what came last says more than what came before it
                self._drop_oldest()
        else:
            self._segment = (start, size + frames.size, length + len(frames.data))
        while self._tail and self._tail_size + self._segment[1] - self._tail[0][1] >= self._tail_limit:
            self._drop_oldest()

    def _close_segment(self) -> None:
        start, size, _ = self._segment
        if size and start >= self._head_limit:
            self._tail.append((start, size))
            self._tail_size += size
        self._segment = (0, 0, 0)

    def _drop_oldest(self) -> None:
        start, size = self._tail.popleft()
        self._tail_size -= size
        try:
            os.unlink(os.path.join(self._folder, segment_name(start)))
        except OSError as error:
            self.trouble = f"Its output could not be kept as it should: {error.strerror}"

    def finish(self) -> tuple[bytes, bool]:
        """There is no more. Returns the frames of all that is kept, or of an excerpt when the rest is in files; and
        whether that is so."""
        if min(self.total, self.limit) <= INLINE_BYTES:
            self.trouble = ""  # nothing depends on the files
            return self._excerpt.frames(), False
        self.flush()
        self._close_segment()
        self._trim()
        return self._excerpt.frames(), self._made

    def _trim(self) -> None:
        """Keep no more of the tail than its limit: the oldest segment is written anew, without its beginning."""
        while self._tail and (excess := self._tail_size - self._tail_limit) > 0:
            start, size = self._tail[0]
            if size > excess:
                try:
                    frames = Frames()
                    with open(os.path.join(self._folder, segment_name(start)), "rb") as file:
                        for stream, data in decode(file.read()):
                            frames.add(stream, data)
                    frames.cut(size - excess)
                    _append(os.path.join(self._folder, segment_name(start + excess)), bytes(frames.data), 0)
                    self._tail.insert(1, (start + excess, size - excess))
                    self._tail_size += size - excess
                except (OSError, ValueError):  # better too much than too little
                    return
            self._drop_oldest()


def _append(path: str, data: bytes, length: int) -> None:
    """Append to a file of that length: all of the data, or nothing and OSError is raised."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        os.ftruncate(descriptor, length)
        if not length:  # an empty segment would hide the rest of the one before it
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)
