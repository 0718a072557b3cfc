"""The xferlog file: a line for each transfer, as wu-ftpd writes it (xferlog(5)), for the tools that read that."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from zoneinfo import ZoneInfo

from wsp.ftp.reports import EndedTransfer

FILE_MODE = 0o640

# Fields are told apart by spaces, and lines by their ends: neither may be in a name.
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]")
# The C locale's names, whatever the process's locale is.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

logger = logging.getLogger(__name__)


class Xferlog:
    """Appends lines, and follows a rotation. Belongs to one thread; other processes may write the same file."""

    def __init__(self, path: Path, zone: ZoneInfo) -> None:
        self._path = path
        self._zone = zone
        self._opened = -1
        self._failing = False

    def write(self, transfers: Iterable[EndedTransfer]) -> None:
        """Write a line for each. Trouble is logged once: transfers do not fail for it."""
        try:
            self._reopen()
            for transfer in transfers:
                # One write a line, so that those of several processes do not run into one another.
                os.write(self._opened, line(transfer, self._zone).encode())
        except OSError as error:
            if not self._failing:
                logger.error("WSP_FTP_XFERLOG: %s cannot be written: %s", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Let go of the file."""
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1

    def _reopen(self) -> None:
        if self._opened >= 0:
            ours = os.fstat(self._opened)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
            self.close()
        self._opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)


def line(transfer: EndedTransfer, zone: ZoneInfo) -> str:
    """The transfer as a line of xferlog(5), with its line end."""
    at = transfer.ended_at.astimezone(zone)
    when = f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day:2} {at:%H:%M:%S} {at.year}"
    fields = (
        when,
        str(max(1, round(transfer.duration_ms / 1000))),
        transfer.address,
        str(transfer.bytes),
        _UNFIT.sub("_", transfer.path),
        "a" if transfer.ascii else "b",
        "_",  # no compression, no tar
        "o" if transfer.direction == "download" else "i",
        "a" if transfer.anonymous else "r",
        _UNFIT.sub("_", transfer.username),
        "ftp",
        "0",  # no authentication by RFC 931
        "*",
        "c" if transfer.completed else "i",
    )
    return " ".join(fields) + "\n"
