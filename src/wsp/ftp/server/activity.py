"""What one session did since somebody logged in, and what its owner is told of it afterwards."""

from collections import OrderedDict
from datetime import datetime

from wsp.ftp.reports import EndedTransfer

FAILURES_REMEMBERED = 100
REFUSALS_RECORDED = 1000  # of one session: a client that repeats a refused command for ever is known by then

_UNITS = ("KB", "MB", "GB", "TB")
_VERBS = {"upload": "upload of", "append": "appending to", "download": "download of"}


class Activity:
    """The figures of one login."""

    __slots__ = (
        "active_at",
        "bytes_downloaded",
        "bytes_uploaded",
        "command",
        "cut",
        "downloads",
        "failures",
        "farewell",
        "refusals",
        "started_at",
        "unresolved",
        "uploads",
    )

    def __init__(self, started_at: datetime) -> None:
        self.started_at = started_at
        self.active_at = started_at
        self.command = ""
        self.uploads = self.downloads = self.failures = self.refusals = 0
        self.bytes_uploaded = self.bytes_downloaded = 0
        self.unresolved: OrderedDict[tuple[bool, str], str] | None = None
        self.farewell = ""
        """What the server said when it ended the session (421); empty when the client left by itself."""
        self.cut = False
        """Whether it was ended because it was not allowed to go on."""

    def add(self, ended: EndedTransfer) -> None:
        """Count a transfer. One that failed is made good by a later one of the same file that does not."""
        downloading = ended.direction == "download"
        if downloading:
            self.bytes_downloaded += ended.bytes
            self.downloads += ended.completed
        else:
            self.bytes_uploaded += ended.bytes
            self.uploads += ended.completed
        key = (downloading, ended.path)
        if ended.completed:
            if self.unresolved:
                self.unresolved.pop(key, None)
            return
        self.failures += 1
        if self.unresolved is None:  # nearly always: five thousand idle sessions need no dictionary
            self.unresolved = OrderedDict()
        self.unresolved[key] = _failure(ended)
        self.unresolved.move_to_end(key)
        if len(self.unresolved) > FAILURES_REMEMBERED:
            self.unresolved.popitem(last=False)

    @property
    def trouble(self) -> str:
        """What went wrong so far and was not made good; empty: nothing."""
        if not self.unresolved:
            return ""
        last = next(reversed(self.unresolved.values()))
        others = len(self.unresolved) - 1
        return last if not others else f"{last} {others} other {'transfer' if others == 1 else 'transfers'} failed too."

    def summary(self) -> tuple[bool, str]:
        """Did the session end well, and a sentence or two that say what came of it."""
        said = f'The server ended the session: "{self.farewell}"' if self.farewell else ""
        if self.trouble:
            # The reply that ended the session is often the reason of the transfer's failure as well.
            return False, self.trouble if self.farewell in self.trouble else f"{self.trouble} {said}"
        if self.cut:
            return False, said
        return True, f"{self._success()} {said}".rstrip()

    def _success(self) -> str:
        done = []
        if self.uploads:
            done.append(f"{_counted(self.uploads, 'upload')} ({size_text(self.bytes_uploaded)})")
        if self.downloads:
            done.append(f"{_counted(self.downloads, 'download')} ({size_text(self.bytes_downloaded)})")
        return f"The session went well: {' and '.join(done) or 'nothing was transferred'}."


def _failure(ended: EndedTransfer) -> str:
    after = f" after {size_text(ended.bytes)}" if ended.bytes else ""
    return f"The {_VERBS[ended.direction]} {ended.path} failed{after}: {_inside(ended.reason)}"


def _inside(sentence: str) -> str:
    """A sentence as it goes on after a colon."""
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(size: int) -> str:
    """A number of bytes for a person: `3.0 MB`, MB of 2^20."""
    if size < 1024:
        return _counted(size, "byte")
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    return f"{size / 1024**power:.1f} {_UNITS[power - 1]}"
