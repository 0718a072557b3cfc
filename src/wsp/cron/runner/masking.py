"""Keeps secrets out of output."""

import re
from collections.abc import Iterable

MASK = b"***"

SHORTEST_SECRET = 3
"""Values, and lines of them, with fewer bytes than this are no secrets: they would mask half of what is written."""


class Secrets:
    """The values that must not appear: whole, and the lines of those that have several."""

    __slots__ = ("pattern", "values")

    def __init__(self, values: Iterable[str]) -> None:
        found = set()
        for value in values:
            for line in [value, *value.splitlines()]:
                data = line.strip().encode("utf-8", "surrogateescape")
                if len(data) >= SHORTEST_SECRET:
                    found.add(data)
        self.values = sorted(found, key=len, reverse=True)  # the longest one first: it may begin with another
        self.pattern = re.compile(b"|".join(map(re.escape, self.values))) if found else None


class Masking:
    """Replaces the secrets in one stream, whose bytes come in chunks as they please.

    What may be the beginning of a secret is held back until it is known to be none, however long that takes: a secret
    that is written in two halves does not appear.
    """

    __slots__ = ("_held", "_pattern", "_values")

    def __init__(self, secrets: Secrets) -> None:
        assert secrets.pattern is not None  # noqa: S101 - for the type checker: made only where there are some
        self._pattern = secrets.pattern
        self._values = secrets.values
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the stream. Returns what may be shown now."""
        data = self._held + data
        shown = []
        at = 0
        hold = self._begins(data, 0)
        for match in self._pattern.finditer(data):
            if match.start() >= hold:  # may yet become a longer one
                break
            shown += [data[at : match.start()], MASK]
            at = match.end()
            if at > hold:
                hold = self._begins(data, at)
        self._held = data[hold:]
        shown.append(data[at:hold])
        return b"".join(shown)

    def end(self) -> bytes:
        """The stream is at its end. Returns what was held back: no secret, or a shorter one."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK, held)

    def _begins(self, data: bytes, at: int) -> int:
        """Where, from `at` on, the end of `data` may be the beginning of a secret; its length when nowhere."""
        first = len(data)
        for value in self._values:
            found = data.find(value[0], max(at, len(data) - len(value) + 1), first)
            while found >= 0:
                if value.startswith(data[found:]):
                    first = found
                    break
                found = data.find(value[0], found + 1, first)
        return first
