"""Where interrupted uploads may have left something: remembered, so that it is removed when nobody looks there again.

Each FTP process notes the folders that uploads go to in one file of the data folder; once an hour one of them looks
through those folders. The file is read an hour after it was set aside, when nobody can still be writing to it.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

from wsp.ftp.jail import Jail, Place
from wsp.ftp.server import beginning

SWEEP_SECONDS = 3600.0
NOTE_SECONDS = 1800.0  # a folder is noted again after so long: well before the note of it can have been read
MOST_NOTED = 10_000
FILE_MODE = 0o600
FOLDER_MODE = 0o700

logger = logging.getLogger(__name__)


class Leftovers:
    """What uploads leave behind, on this machine. `keep_seconds`: how long it can be resumed; 0: nothing is kept."""

    def __init__(self, folder: Path, files: Path, keep_seconds: float, unlink: Callable[[Place], None]) -> None:
        """`unlink` removes a file, and raises OSError."""
        self._unlink = unlink
        self.keep_seconds = keep_seconds
        self._folder = folder
        self._files = files
        self._noted: dict[Hashable, float] = {}

    def note(self, key: Hashable, folder: int) -> None:
        """An upload goes to this open folder. `key` stands for it: the same key is noted now and then only."""
        now = time.monotonic()
        if now - self._noted.get(key, -NOTE_SECONDS) < NOTE_SECONDS:
            return
        if len(self._noted) >= MOST_NOTED:
            self._noted.clear()
        self._noted[key] = now
        try:
            self._append([os.readlink(f"/proc/self/fd/{folder}")])
        except OSError as error:
            logger.warning("a folder with uploads could not be noted: %s", error)

    def start(self) -> None:
        """Sweep now and every hour, on a thread that ends with the process."""
        threading.Thread(target=self._sweep_hourly, name="ftp-sweep", daemon=True).start()

    def sweep(self, *, now: float) -> None:
        """Look through the folders that were noted, unless somebody did within the last hour. Raises OSError."""
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        lock = os.open(self._folder / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_size and now - os.fstat(lock).st_mtime < SWEEP_SECONDS:
                return
            os.pwrite(lock, b".", 0)
            os.utime(lock, (now, now))
            self._sweep_noted(now)
        except BlockingIOError:
            return  # another process is at it
        finally:
            os.close(lock)

    def _sweep_noted(self, now: float) -> None:
        present, aside = self._folder / "uploads", self._folder / "uploads.aside"
        with suppress(FileNotFoundError):
            folders = {json.loads(line) for line in aside.read_text("ascii").splitlines()}
            self._append([folder for folder in sorted(folders) if self._sweep_folder(folder, now)])
        with suppress(FileNotFoundError):
            present.replace(aside)

    def _sweep_folder(self, path: str, now: float) -> bool:
        """Whether something is left there that has to wait."""
        root = os.path.realpath(self._files)
        jail = Jail(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), root, shows_own=True)
        try:
            folder = jail.open_folder(os.path.relpath(path, root))
        except OSError:
            return False  # it is gone
        finally:
            jail.close()
        try:
            beginning.sweep(self._unlink, folder, os.listdir(folder), now=now, keep_seconds=self.keep_seconds)
            return any(name.startswith(beginning.UPLOAD_PREFIX) for name in os.listdir(folder))
        finally:
            os.close(folder)

    def _append(self, folders: list[str]) -> None:
        if not folders:
            return
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        opened = os.open(self._folder / "uploads", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(opened, "".join(f"{json.dumps(folder)}\n" for folder in folders).encode("ascii"))
        finally:
            os.close(opened)

    def _sweep_hourly(self) -> None:
        while True:
            try:
                self.sweep(now=time.time())
            except (OSError, ValueError) as error:
                logger.warning("interrupted uploads were not swept: %s", error)
            time.sleep(SWEEP_SECONDS)
