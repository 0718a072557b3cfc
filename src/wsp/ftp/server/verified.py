"""Passwords that were right a short while ago, so that a client with ten connections costs one slow hash."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

KEEP_SECONDS = 600.0
KEEP_ENTRIES = 10_000
KEY_BYTES = 32


class _Entry(NamedTuple):
    stored: str
    digest: bytes
    until: float


class VerifiedPasswords:
    """Remembers, in memory only, that a password fitted a stored hash. Thread-safe.

    An entry holds for that very hash: once another one is stored, for a new password, it is worth nothing. What is
    kept of a password is its digest under a key that this process drew and that is written nowhere.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, username: str, password: str, stored: str, *, now: float | None = None) -> bool:
        """Whether this password was found to fit this stored hash lately. `now` as of `time.monotonic()`."""
        digest = self._digest(password)
        with self._lock:
            entry = self._entries.get(username)
        if entry is None or digest is None or (time.monotonic() if now is None else now) >= entry.until:
            return False
        return entry.stored == stored and hmac.compare_digest(entry.digest, digest)

    def remember(self, username: str, password: str, stored: str, *, now: float | None = None) -> None:
        """Note that this password fits this stored hash."""
        digest = self._digest(password)
        if digest is None:
            return
        until = (time.monotonic() if now is None else now) + KEEP_SECONDS
        with self._lock:
            self._entries[username] = _Entry(stored, digest, until)
            self._entries.move_to_end(username)
            if len(self._entries) > KEEP_ENTRIES:
                self._entries.popitem(last=False)

    def _digest(self, password: str) -> bytes | None:
        try:
            return hashlib.blake2b(password.encode(), key=self._key).digest()
        except UnicodeEncodeError:
            return None  # not UTF-8: no stored hash fits it
