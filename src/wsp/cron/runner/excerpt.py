"""The beginning and the end of an output, however long it is, in bounded memory."""

from wsp.cron.runner.frames import Frames, encode, gap

INLINE_BYTES = 65536
"""Of a longer output, only an excerpt of this size travels with the end of a run and lies in its row."""


class Excerpt:
    """Takes any number of bytes, keeps the first and the last of them, `limit` bytes at most, and counts the rest."""

    __slots__ = ("_head", "_head_limit", "_skipped", "_tail", "_tail_limit", "total")

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._head = Frames()
        self._tail = Frames()
        self._skipped = False
        self.total = 0
        """All bytes that were taken, or skipped."""

    def add(self, stream: int, data: bytes) -> None:
        """Take the next bytes of the output."""
        self.total += len(data)
        room = self._head_limit - self._head.size
        if room > 0 and not self._skipped:
            self._head.add(stream, data[:room])
            data = data[room:]
        if len(data) >= self._tail_limit:
            self._tail.clear()
            data = data[len(data) - self._tail_limit :]
        self._tail.add(stream, data)
        if self._tail.size > 2 * self._tail_limit:  # not with each piece: moving bytes costs
            self._tail.cut(self._tail_limit)

    def skip(self, count: int) -> None:
        """So many bytes of the output are not to be had. Nothing before them can stay but the head."""
        self.total += count
        self._tail.clear()
        self._skipped = True

    def frames(self) -> bytes:
        """What is kept, with a gap for what is not."""
        self._tail.cut(self._tail_limit)
        left_out = self.total - self._head.size - self._tail.size
        join = encode([gap(left_out)]) if left_out else b""
        return bytes(self._head.data) + join + bytes(self._tail.data)
