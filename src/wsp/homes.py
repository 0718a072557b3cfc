"""The panel's name space of home folders, `/home/<owner>[/<domain>][/<folder>]`, and where it lies on this machine."""

import os
import stat
from pathlib import Path

from wsp.errors import StartupError

HOME_MODE = 0o750
HOMES_MODE = 0o711  # of the folder that homes lie in: whoever has one gets to it, and nobody sees the others

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


def closed_folder(files_root: Path) -> Path | None:
    """The first folder on the way to the homes that other accounts than its own cannot enter, going by its mode."""
    homes = files_root.resolve() / "home"
    for folder in (*reversed(homes.parents), homes):
        if folder.is_dir() and not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def home_path(files_root: Path, home: str) -> Path:
    """Where a home lies on this machine, whether it is there or not."""
    return files_root / home.strip("/")


def open_home(files_root: Path, home: str, owner: tuple[int, int] | None = None) -> int:
    """A descriptor (O_PATH) of a home, made if missing, one step at a time and never through a symbolic link.

    The caller closes it. `owner` (uid, gid) is whom that belongs to which is made below the first step. Raises OSError
    when the home cannot be made, or when a step of it is not a folder (a link included).
    """
    folder, _ = _open_or_make(os.fspath(files_root), None)
    for depth, step in enumerate(home.strip("/").split("/")):
        try:
            deeper, made = _open_or_make(step, folder, HOME_MODE if depth else HOMES_MODE)
            if made and owner is not None and depth > 0:
                os.chown(f"/proc/self/fd/{deeper}", *owner)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _open_or_make(name: str, parent: int | None, mode: int = HOME_MODE) -> tuple[int, bool]:
    """The folder, and whether it was made. Most are there: trying to make them first would cost every login."""
    flags = _FOLDER if parent is None else _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent), False
    except FileNotFoundError:
        made = True
        try:
            if parent is None:
                os.makedirs(name, exist_ok=True)
            else:
                os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            made = False
        return os.open(name, flags, dir_fd=parent), made


def make_home(files_root: Path, home: str) -> Path:
    """The real folder of a home, made if missing as `open_home()` does. Raises OSError."""
    os.close(open_home(files_root, home))
    return home_path(files_root, home)
