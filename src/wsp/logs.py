"""Logging: one line a message on standard error, as text or as JSON, with times in the server's zone."""

import json
import logging
import os
import re
import sys
import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

from wsp.settings import Settings

# Libraries whose "info" is our "debug": each start would begin with a page of it.
QUIET_LOGGERS = ("alembic", "asyncio", "httpx", "httpcore", "pyftpdlib", "tzlocal", "uvicorn.error")
# They bring handlers of their own; without those their messages reach the root's handler, in our format.
ROUTED_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "pyftpdlib")

CONTROL_CATEGORIES = ("Cc", "Zl", "Zp")  # of Unicode: control characters, line and paragraph separators
_LEFT_BY_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")  # of these, what JSON may hold as it is

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure_logging(settings: Settings, *, process: str = "wsp") -> None:
    """Send every logger of this process to standard error. `process` is what this process is: api, ftp, cron, serve."""
    formatter = (_JsonLines if settings.log_format == "json" else _TextLines)(process, settings.zone)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in ROUTED_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if settings.log_level == "debug" else logging.WARNING)
    logging.captureWarnings(True)


class _Lines(logging.Formatter):
    def __init__(self, process: str, zone: ZoneInfo) -> None:
        super().__init__()
        self._process = process
        self._zone = zone

    def _time(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, self._zone).isoformat(timespec="milliseconds")


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{self._time(record)} {record.levelname:<7} {self._process}[{os.getpid()}] {record.name}: "
        # What a client sent may hold line breaks; a message stays one line, so that nobody can forge another.
        line += _escaped(record.getMessage())
        if record.exc_info:
            line += "\n" + _escaped_lines(self.formatException(record.exc_info))
        if record.stack_info:
            line += "\n" + _escaped_lines(self.formatStack(record.stack_info))
        return line


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD_FIELDS)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        text = json.dumps(line, ensure_ascii=False, default=str)
        return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(text: str) -> str:
    """The text with every character that ends a line or steers a terminal written out, as in `\\x1b`."""
    if text.isprintable():  # nearly always
        return text
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in CONTROL_CATEGORIES else char for char in text)


def _escaped_lines(text: str) -> str:
    return "\n".join(_escaped(line) for line in text.split("\n"))
