"""Files that commands are given."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from wsp.errors import Invalid, WspError

BATCH = 500  # imported in one transaction: nobody else can write meanwhile

T = TypeVar("T")

FileArgument = Annotated[Path, typer.Argument(help="The file; - for standard input.", allow_dash=True)]


def read_text(file: Path) -> str:
    """The content of a file, or of standard input. Raises WspError."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        return text.removeprefix("\ufeff")
    except OSError as error:
        raise WspError(f"Cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WspError(f"Cannot read {file}: it is not UTF-8") from None


def read_list(text: str, file: Path, what: str) -> list[Any]:
    """The list in a JSON text: the whole of it, or what stands under the key `what`. Raises Invalid."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{file} is not valid JSON: {error}") from None
    found = read.get(what) if isinstance(read, dict) else read
    if not isinstance(found, list):
        raise Invalid(f"{file} must hold a list of {what}, or an object with such a list under '{what}'")
    return found


def named_owner(owner: str | None) -> str:
    """The owner of something in a file. Raises Invalid when neither the file nor the command names one."""
    if owner is None:
        raise Invalid("Owner is required: name it in the file, or with --owner")
    return owner


def batches(candidates: list[T]) -> list[list[T]]:
    """Parts of a list, each for a transaction of its own."""
    return [candidates[start : start + BATCH] for start in range(0, len(candidates), BATCH)]
