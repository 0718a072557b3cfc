"""The panel's name space of home folders, `/home/<owner>[/<domain>][/<folder>]`, and where it lies on this machine."""

import os
from contextlib import suppress
from pathlib import Path

from wsp.errors import StartupError

HOME_MODE = 0o750

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def home_dir(owner: str, domain: str = "", subdir: str = "") -> str:
    """The panel's name for the folder of an owner, or of one of their domains, or of a folder `subdir` in there."""
    return "/".join(filter(None, ("/home", owner, domain, subdir)))


def make_files_root(files_root: Path) -> None:
    """Make the folder that homes are made in (`WSP_FILES_ROOT`). Raises StartupError."""
    try:
        files_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"WSP_FILES_ROOT: cannot make {files_root} ({error.strerror}); a folder that can be written is allowed"
        ) from None


def home_path(files_root: Path, home: str) -> Path:
    """Where a home lies on this machine, whether it is there or not."""
    return files_root / home.strip("/")


def open_home(files_root: Path, home: str) -> int:
    """A descriptor (O_PATH) of a home, made if missing, one step at a time and never through a symbolic link.

    The caller closes it. Raises OSError when the home cannot be made, or when a step of it is not a folder (a link
    included).
    """
    folder = _open_or_make(os.fspath(files_root), None)
    for step in home.strip("/").split("/"):
        try:
            deeper = _open_or_make(step, folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _open_or_make(name: str, parent: int | None) -> int:
    """Most homes are there: to make them first, and be told so, would cost every login."""
    flags = _FOLDER if parent is None else _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if parent is None:
            os.makedirs(name, exist_ok=True)
        else:
            with suppress(FileExistsError):
                os.mkdir(name, HOME_MODE, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)


def make_home(files_root: Path, home: str) -> Path:
    """The real folder of a home, made if missing as `open_home()` does. Raises OSError."""
    os.close(open_home(files_root, home))
    return home_path(files_root, home)
