"""The fields of a cron expression: reading one, and saying what is wrong with it.

Grammar: crontab(5), with names and ranges of names in any case, `n/step` for "from n on", 7 for Sunday, and Jenkins'
`H`, `H(0-29)` and `H/15`: a value that is chosen for each job, so that not all of them start at the same moment.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b

_SHOWN_CHARACTERS = 20
_NUMBER = re.compile(r"[0-9]+", re.ASCII)  # digits of other scripts are no numbers here
_PART = re.compile(r"(?P<first>[^-/]+)(?:-(?P<last>[^-/]+))?(?:/(?P<step>[^-/]+))?", re.ASCII)
_SPREAD = re.compile(r"H(?:\((?P<first>[^-/()]+)-(?P<last>[^-/()]+)\))?(?:/(?P<step>[^-/()]+))?", re.ASCII | re.I)

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class ExpressionError(ValueError):
    """An expression that is not one, or that never fires; the message says why, in one sentence."""


@dataclass(frozen=True)
class Field:
    """What one field of an expression may hold."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()
    highest_spread: int | None = None  # the last value that a bare `H` may be, when not all of them will do

    @property
    def size(self) -> int:
        """How many different values there are; 0 and 7 are the same Sunday."""
        return 7 if self.names == WEEKDAYS else self.highest - self.lowest + 1

    @property
    def allowed(self) -> str:
        """The values, for a person."""
        numbers = f"{self.lowest}-{self.highest}"
        return f"{numbers} or {self.names[0]}-{self.names[-1]}" if self.names else numbers

    def parse(self, text: str, key: int = 0) -> frozenset[int]:
        """The values that `text` stands for, Sunday as 0. Raises ExpressionError.

        `key` decides for `H`: one number after another goes through all that it can be.
        """
        values: set[int] = set()
        for part in text.split(","):
            values |= self._spread(part, key) if part[:1] in ("H", "h") else self._parse_part(part, text)
        if self.names == WEEKDAYS and 7 in values:
            values = (values - {7}) | {0}
        return frozenset(values)

    def key_of(self, job_id: int) -> int:
        """A number for `parse` that is the same for this job and this field for ever, and as good as random."""
        return int.from_bytes(blake2b(f"{job_id} {self.name}".encode(), digest_size=8).digest())

    def _parse_part(self, part: str, text: str) -> set[int]:
        if not part:
            raise ExpressionError(f"Cron expression: {self.name} {shown(text)} has an empty place in its list")
        match = _PART.fullmatch(part)
        if match is None:
            raise self._refusal(part)
        step = 1 if match["step"] is None else self._step(match["step"], self.size)
        if match["first"] == "*":
            if match["last"] is not None:
                raise self._refusal(part)
            return set(range(self.lowest, self.lowest + self.size, step))
        if match["last"] is not None:
            first, last = self._range(part, match["first"], match["last"])
            return set(range(first, last + 1, step))
        first = self._value(match["first"])
        if match["step"] is None:
            return {first}
        if self.names == WEEKDAYS:
            first %= 7  # from Sunday on is from the start of the week on
        return set(range(first, self.lowest + self.size, step))

    def _spread(self, part: str, key: int) -> set[int]:
        match = _SPREAD.fullmatch(part)
        if match is None:
            raise ExpressionError(
                f"Cron expression: {self.name} {shown(part)} is not allowed, "
                f"use H, H({self.lowest}-{self.highest}) or H/2"
            )
        first, last = self.lowest, self.highest_spread or self.lowest + self.size - 1
        if match["first"] is not None:
            first, last = self._range(part, match["first"], match["last"])
        size = last - first + 1
        if match["step"] is None:
            return {first + key % size}
        step = self._step(match["step"], size)
        return set(range(first + key % step, last + 1, step))

    def _range(self, part: str, first_text: str, last_text: str) -> tuple[int, int]:
        first, last = self._value(first_text), self._value(last_text)
        if self.names == WEEKDAYS and last_text.lower() == "sun":
            last = 7  # a range that ends on Sunday ends the week: fri-sun
        if first > last:
            raise ExpressionError(
                f"Cron expression: {self.name} range {shown(part)} runs backwards, "
                f"use {first}-{self.highest},{self.lowest}-{last}"
            )
        return first, last

    def _step(self, text: str, highest: int) -> int:
        if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= highest:
            raise ExpressionError(f"Cron expression: {self.name} step {shown(text)} is not allowed, use 1-{highest}")
        return int(text)

    def _value(self, text: str) -> int:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.lowest
        if not _NUMBER.fullmatch(text) or not self.lowest <= int(text) <= self.highest:
            raise self._refusal(text)
        return int(text)

    def _refusal(self, value: str) -> ExpressionError:
        return ExpressionError(f"Cron expression: {self.name} {shown(value)} is not allowed, use {self.allowed}")


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31, highest_spread=28)  # a day that every month has
MONTH = Field("month", 1, 12, MONTHS)
WEEKDAY = Field("day of week", 0, 7, WEEKDAYS)
SECOND = Field("second", 0, 59)

FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY, SECOND)
"""In the order of an expression. The last one may be left out, and is 0 then."""


def shown(value: str) -> str:
    """A value as it can be put into a sentence: quoted, short, and printable ASCII only."""
    short = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "..."
    return "'" + short.encode("ascii", "backslashreplace").decode().translate(_CONTROL) + "'"


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
