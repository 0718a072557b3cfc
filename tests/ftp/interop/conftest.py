"""A tree of files that is hard on clients and servers, and how to compare what came of it."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MEBIBYTE = 2**20
TIMEOUT_SECONDS = 100
OLD = 946_782_245  # 2000-01-02 03:04:05 UTC
NAMES = (
    "plain.txt",
    "with spaces  twice.txt",
    "gr\u00fc\u00dfe\u2022.txt",  # composed
    "cafe\u0301.txt",  # decomposed: never to be turned into the composed one
    "caf\u00e9.txt",
    "\u65e5\u672c\u8a9e.txt",
    "100%25 #1 & 'more'.txt",
    "-dash.txt",
    ".htaccess",
)


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below one, by relative path: the digest of a file, `/` for a folder."""
    return {
        str(path.relative_to(folder)): "/" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def times(folder: Path) -> dict[str, int]:
    """The times of the files below a folder, in whole seconds."""
    return {str(path.relative_to(folder)): int(path.stat().st_mtime) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with odd names, files from nothing to 20 MB, and a deep path; all of it from a long time ago."""
    root = tmp_path / "tree"
    folders = [root, root / "with space", root / "with space" / "s\u00fcb", root.joinpath(*"abcdefghijklmnopqrst")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(NAMES):
            (folder / name).write_bytes(os.urandom(1000 * number))  # the first is empty
    (root / "big.bin").write_bytes(os.urandom(20 * MEBIBYTE))
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD))
    return root


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a client to its end: what it printed. It has to report success."""

    def run(*words: str | Path, stdin: str = "", code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            input=stdin.encode(),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            env=os.environ | {"LC_ALL": "C.UTF-8"} | environment,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == code, output + done.stderr.decode(errors="replace")
        return output

    return run


@pytest.fixture
def compare() -> Callable[[Path, Path], None]:
    """Fails unless two folders hold the same, byte for byte and name for name."""

    def compare(one: Path, other: Path) -> None:
        assert contents(one) == contents(other)

    return compare


@pytest.fixture
def keeps_times() -> Callable[[Path, Path], None]:
    """Fails unless the files of two folders have the same times."""

    def keeps_times(one: Path, other: Path) -> None:
        assert times(one) == times(other)

    return keeps_times
