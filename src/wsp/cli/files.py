"""Files that commands are given."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wsp.errors import WspError

FileArgument = Annotated[Path, typer.Argument(help="The file; - for standard input.", allow_dash=True)]


def read_text(file: Path) -> str:
    """The content of a file, or of standard input. Raises WspError."""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise WspError(f"Cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WspError(f"Cannot read {file}: it is not UTF-8") from None
