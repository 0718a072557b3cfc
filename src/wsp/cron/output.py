"""The output of a command, kept within bounds however much there is: its head and its tail."""

REPLACED_NUL = "\N{SYMBOL FOR NULL}"  # PostgreSQL's text cannot hold NUL

_CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that follow a first one
_LONGEST_CHARACTER = 4


class BoundedOutput:
    """Takes any number of bytes, keeps the first and the last of them, `limit` bytes at most, and counts the rest."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._tail_limit :]
        if len(self._tail) > 2 * self._tail_limit:  # not with each chunk: moving bytes costs
            del self._tail[: -self._tail_limit]

    @property
    def truncated(self) -> bool:
        """Was there more than is kept?"""
        return self._total > self._head_limit + self._tail_limit

    def text(self) -> str:
        """What is kept, as text. What is no UTF-8 is shown as U+FFFD, NUL as U+2400, a cut as a line that says so."""
        tail = bytes(self._tail[-self._tail_limit :])
        if not self.truncated:
            return _decode(bytes(self._head) + tail)
        head = _without_broken_end(bytes(self._head))
        tail = _without_broken_start(tail)
        left_out = self._total - len(head) - len(tail)
        join = "" if head.endswith(b"\n") else "\n"
        return f"{_decode(head)}{join}… {left_out} bytes left out …\n{_decode(tail)}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").replace("\0", REPLACED_NUL)


def _without_broken_end(data: bytes) -> bytes:
    """Without the beginning of a character whose rest was cut off."""
    for size in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        first = data[-size]
        if first in _CONTINUATION:
            continue
        needed = 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1
        return data[:-size] if needed > size else data
    return data


def _without_broken_start(data: bytes) -> bytes:
    """Without the rest of a character whose beginning was cut off."""
    for size in range(min(_LONGEST_CHARACTER, len(data))):
        if data[size] not in _CONTINUATION:
            return data[size:]
    return data
