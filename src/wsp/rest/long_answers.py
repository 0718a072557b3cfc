"""JSON answers of any length, in memory that does not grow with them.

Such an answer is made whole before its first byte is sent: whatever goes wrong meanwhile is an error answer, never a
list that ends too early, and a slow client keeps neither a connection to the store nor a thread. What is longer than
some memory is worth waits in a file without a name.
"""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

BYTES_IN_MEMORY = 2**20
BYTES_AT_ONCE = 2**18

JSON = "application/json"


class LongBody:
    """A body that is written once, by one thread, and may be sent to several clients then."""

    def __init__(self) -> None:
        self._size = 0
        self._pieces: list[bytes] = []
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Add some more. Raises OSError when there is no room for it."""
        self._size += len(data)
        if self._file is not None:
            self._file.write(data)
            return
        self._pieces.append(data)
        if self._size > BYTES_IN_MEMORY:
            # Closed when the last one who sends it lets go of this object.
            file = tempfile.TemporaryFile(prefix="wsp-answer-")  # noqa: SIM115
            weakref.finalize(self, file.close)
            file.writelines(self._pieces)
            self._file = file
            self._pieces = []

    def write_items(self, items: Iterable[object]) -> int:
        """Add the items of a JSON array, without its brackets. Call it once. Returns how many there were."""
        count = 0
        for count, item in enumerate(items, 1):
            self.write(to_json(item) if count == 1 else b"," + to_json(item))
        return count

    def write_list(self, items: Iterable[object]) -> None:
        """Add a JSON array of these items."""
        self.write(b"[")
        self.write_items(items)
        self.write(b"]")

    def __len__(self) -> int:
        return self._size

    def answer(self, headers: Mapping[str, str]) -> Response:
        """The answer with this body. Nothing can be written any more."""
        if self._file is None:
            return Response(b"".join(self._pieces), headers=headers, media_type=JSON)
        self._file.flush()
        length = {"Content-Length": str(self._size)}
        return StreamingResponse(self._read(self._file), headers={**headers, **length}, media_type=JSON)

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        place = 0
        while place < self._size:
            data = os.pread(file.fileno(), BYTES_AT_ONCE, place)
            if not data:
                raise OSError("an answer that was kept in a file is cut off")
            place += len(data)
            yield data
