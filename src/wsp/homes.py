"""The panel's name space of home folders, `/home/<owner>[/<domain>]`, and where it lies on this machine."""

import os
from contextlib import suppress
from pathlib import Path

from wsp.errors import StartupError

HOME_MODE = 0o750


def home_dir(owner: str, domain: str = "") -> str:
    """The panel's name for the folder of an owner, or of one of their domains."""
    return f"/home/{owner}/{domain}" if domain else f"/home/{owner}"


def make_files_root(files_root: Path) -> None:
    """Make the folder that homes are made in (`WSP_FILES_ROOT`). Raises StartupError."""
    try:
        files_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"WSP_FILES_ROOT: cannot make {files_root} ({error.strerror}); a folder that can be written is allowed"
        ) from None


def make_home(files_root: Path, home: str) -> Path:
    """The real folder of a home, made if missing, one step at a time and never through a symbolic link.

    Raises OSError when it cannot be made, or when a step of it is not a folder (a link included).
    """
    root = files_root
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in home.strip("/").split("/"):
            with suppress(FileExistsError):
                os.mkdir(step, HOME_MODE, dir_fd=folder)
            deeper = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
    finally:
        os.close(folder)
    return root / home.strip("/")
