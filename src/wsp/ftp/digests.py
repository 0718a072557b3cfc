"""Digests of files: the algorithms by their names in HASH (draft-bryan-ftpext-hash), and a part of a file's digest."""

import hashlib
import os
import zlib
from collections.abc import Callable
from typing import Protocol

SLICE_BYTES = 2**20  # read and hashed at a time; both let go of the interpreter meanwhile


class Digest(Protocol):
    """What hashlib's objects have in common."""

    def update(self, data: memoryview, /) -> None:
        """Take in more data."""

    def hexdigest(self) -> str:
        """The digest of what came so far, in lower-case hex digits."""


class Crc32:
    """The CRC of zip and Ethernet, as eight hex digits."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        """Take in more data."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """The digest of what came so far, in lower-case hex digits."""
        return f"{self._value:08x}"


ALGORITHMS: dict[str, Callable[[], Digest]] = {
    "SHA-256": hashlib.sha256,
    "SHA-1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC32": Crc32,
}


class DigestStopped(Exception):
    """Whoever wanted the digest no longer does."""


def read_into(digest: Digest, opened: int, start: int, end: int, buffer: memoryview) -> int:
    """Take the bytes of an open file from `start` up to `end` into a digest, at most a buffer full; how many.

    None where the file ends before. Raises OSError.
    """
    count = os.preadv(opened, [buffer[: min(len(buffer), end - start)]], start)
    if count:
        digest.update(buffer[:count])
    return count


def digest_of(algorithm: str, opened: int, start: int, end: int, *, go_on: Callable[[], bool]) -> str:
    """The digest of the bytes from `start` up to `end` of an open file. May take long.

    Raises OSError, and DigestStopped when `go_on` says no.
    """
    digest = ALGORITHMS[algorithm]()
    buffer = memoryview(bytearray(min(SLICE_BYTES, end - start)))
    while start < end:
        if not go_on():
            raise DigestStopped
        count = read_into(digest, opened, start, end, buffer)
        if not count:
            raise OSError("the file became shorter meanwhile")
        start += count
    return digest.hexdigest()
