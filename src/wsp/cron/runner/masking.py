"""Keeps secrets out of output."""

from collections.abc import Iterable

MASK = b"***"

SHORTEST_SECRET = 3
"""Values, and lines of them, with fewer bytes than this are no secrets: they would mask half of what is written."""


class Secrets:
    """The values that must not appear: whole, and the lines of those that have several."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[str]) -> None:
        found = set()
        for value in values:
            for line in [value, *value.splitlines()]:
                data = line.strip().encode("utf-8", "surrogateescape")
                if len(data) >= SHORTEST_SECRET:
                    found.add(data)
        self.values = sorted(found)


class Masking:
    """Replaces the secrets in one stream, whose bytes come in chunks as they please. What overlaps becomes one mask.

    What may be the beginning of a secret is held back until it is known to be none, however long that takes: a secret
    that is written in two halves does not appear.
    """

    __slots__ = ("_held", "_masked", "_values")

    def __init__(self, secrets: Secrets) -> None:
        self._values = secrets.values
        self._held = b""
        self._masked = 0  # bytes at the beginning of what is held back that belong to the mask before it

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the stream. Returns what may be shown now."""
        data = self._held + data
        return self._mask(data, self._begins(data))

    def end(self) -> bytes:
        """The stream is at its end. Returns what was held back: no secret, or a shorter one."""
        return self._mask(self._held, len(self._held))

    def _mask(self, data: bytes, hold: int) -> bytes:
        """What is to be shown of the data before `hold`; from there on it is held back."""
        shown = []
        at = self._masked
        for start, end in self._found(data):
            if start >= hold:  # may yet become a longer one
                break
            if start >= at:
                shown += [data[at:start], MASK]
            at = max(at, end)
        shown.append(data[at:hold])
        self._held, self._masked = data[hold:], max(0, at - hold)
        return b"".join(shown)

    def _found(self, data: bytes) -> list[tuple[int, int]]:
        """Where secrets begin and end, in order: not all, but enough to cover the same bytes."""
        found = []
        for value in self._values:
            size = len(value)
            at = data.find(value)
            while at >= 0:
                found.append((at, at + size))
                # Of those that overlap it, the last one: each of them would take long in "aaaa...".
                overlapping = data.rfind(value, at + 1, at + 2 * size - 1)
                at = overlapping if overlapping >= 0 else data.find(value, at + size)
        return sorted(found)

    def _begins(self, data: bytes) -> int:
        """Where the end of `data` may be the beginning of a secret; its length when nowhere."""
        first = len(data)
        for value in self._values:
            found = data.find(value[0], max(0, len(data) - len(value) + 1), first)
            while found >= 0:
                if value.startswith(data[found:]):
                    first = found
                    break
                found = data.find(value[0], found + 1, first)
        return first
