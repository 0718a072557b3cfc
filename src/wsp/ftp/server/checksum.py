"""The checksum of each upload, for the record of the transfer: threads read along what has arrived.

They read the file that is being written, out of the page cache, so nothing is copied or queued on the loop, memory
stays flat when they fall behind, and a continued upload is covered from its first byte on. The client's 226 never waits
for them.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable

from wsp.ftp.digests import ALGORITHMS, SLICE_BYTES, Digest, digest_of, read_into
from wsp.ftp.server.loop import Loop

THREADS = 2
NICENESS = 10
INLINE_BYTES = 64 * 1024  # files up to this size are hashed where they end: it takes microseconds
NEWS_BYTES = 2**20  # a thread is told when so much more has arrived
TURN_BYTES = 8 * 2**20  # what one upload gets hashed before it is another one's turn

_NAMES = {"crc32": "CRC32", "sha256": "SHA-256"}

logger = logging.getLogger(__name__)


class Checksums:
    """The threads of one process. `setting` is that of `WSP_FTP_UPLOAD_CHECKSUM`: `none`, `crc32` or `sha256`."""

    def __init__(self, loop: Loop, setting: str) -> None:
        self._loop = loop
        self._setting = setting
        self._algorithm = _NAMES.get(setting)
        self._waiting: queue.SimpleQueue[Checksum] = queue.SimpleQueue()
        self._outstanding: set[Checksum] = set()
        self._settled = threading.Condition()
        if self._algorithm is not None:
            for number in range(THREADS):
                threading.Thread(target=self._work, name=f"ftp-checksum-{number}", daemon=True).start()

    def begin(self) -> "Checksum | None":
        """The checksum of an upload that begins; None when none are wanted."""
        if self._algorithm is None:
            return None
        return Checksum(self._algorithm, f"{self._setting}:", self)

    def finish(self, seconds: float) -> None:
        """Wait for the checksums of files that are whole, then give up those that are still missing."""
        with self._settled:
            self._settled.wait_for(lambda: not self._outstanding, seconds)
            late = list(self._outstanding)
        for checksum in late:
            checksum.give_up()

    def wait(self, checksum: "Checksum") -> None:
        """Have a thread read on, when it is that one's turn."""
        self._waiting.put(checksum)

    def ended(self, checksum: "Checksum") -> None:
        """The file is whole, and not read to its end yet."""
        with self._settled:
            self._outstanding.add(checksum)

    def settled(self, checksum: "Checksum", then: Callable[[], None] | None) -> None:
        """There is a result; `then` is for the loop."""
        with self._settled:
            self._outstanding.discard(checksum)
            if then is not None:
                self._loop.call(then)
            self._settled.notify_all()

    def _work(self) -> None:
        buffer = memoryview(bytearray(SLICE_BYTES))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            self._waiting.get().turn(buffer)


class Checksum:
    """The checksum of one upload. The loop says what has arrived; `turn()` is called on the threads."""

    def __init__(self, algorithm: str, prefix: str, all_of_them: Checksums) -> None:
        self._algorithm = algorithm
        self._prefix = prefix
        self._all = all_of_them
        self._digest: Digest = ALGORITHMS[algorithm]()
        self._lock = threading.Lock()
        self._fd = -1
        self._read = 0
        self._arrived = 0
        self._busy = False  # waiting for its turn, or having it
        self._ended = False
        self._result: str | None = None
        self._then: Callable[[str], None] | None = None

    def arrived(self, opened: int, size: int) -> None:
        """The first `size` bytes of the file `opened` are there."""
        if size - self._arrived >= NEWS_BYTES:
            self._follow(opened, size)

    def end(self, opened: int, size: int) -> None:
        """The file is whole. It is only read from here on, and may be renamed or removed."""
        if self._fd >= 0 or size > INLINE_BYTES:
            self._follow(opened, size, ended=True)
            return
        try:
            self._settle(self._prefix + digest_of(self._algorithm, opened, 0, size, go_on=lambda: True))
        except OSError as error:
            self._fail(error)

    def give_up(self) -> None:
        """The upload came to nothing."""
        self._settle("")

    def then(self, function: Callable[[str], None]) -> None:
        """Hand the checksum, as in `sha256:<hex>`, to `function` on the loop once it is known; empty: it never is."""
        with self._lock:
            result = self._result
            if result is None:
                self._then = function
        if result is not None:
            function(result)

    def turn(self, buffer: memoryview) -> None:
        """Read on for a while."""
        try:
            until = min(self._arrived, self._read + TURN_BYTES)
            while self._read < until and self._result is None:
                count = read_into(self._digest, self._fd, self._read, until, buffer)
                if not count:
                    raise OSError("the file became shorter meanwhile")
                self._read += count
        except OSError as error:
            self._fail(error)
        with self._lock:
            if self._result is None and self._read < self._arrived:
                self._all.wait(self)
                return
            self._busy = False
            is_whole = self._ended
        if is_whole or self._result is not None:
            self._settle(self._prefix + self._digest.hexdigest())

    def _follow(self, opened: int, size: int, *, ended: bool = False) -> None:
        try:
            with self._lock:
                if self._result is not None:
                    return
                if self._fd < 0:
                    self._fd = os.dup(opened)
                self._arrived = size
                if ended:
                    self._ended = True
                    self._all.ended(self)
                if not self._busy:
                    self._busy = True
                    self._all.wait(self)
        except OSError as error:  # the upload goes on without
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._result is None:  # else it was given up, and the file with it
            logger.warning("the checksum of an upload could not be computed: %s", error)
        self._settle("")

    def _settle(self, result: str) -> None:
        """The first result counts. A thread that is reading lets go of the file itself."""
        with self._lock:
            if self._result is None:
                self._result = result
            if self._fd >= 0 and not self._busy:
                os.close(self._fd)
                self._fd = -1
            then, self._then = self._then, None
            known = self._result
        self._all.settled(self, None if then is None else lambda: then(known))
