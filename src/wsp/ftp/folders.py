"""How folders are written in the API, and the rules of what may be done in them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wsp.rest.fields import one_line

RESERVED_PREFIX = ".wsp-"  # names that belong to the server
MAX_NAME_BYTES = 255  # NAME_MAX of Linux's file systems
MAX_FOLDER_CHARS = 1000
MAX_RULES = 100


def _check_steps(steps: Sequence[str]) -> None:
    for step in steps:
        if step in ("", ".", ".."):
            raise ValueError("must not have empty parts, '.' or '..' in it")
        if step.startswith(RESERVED_PREFIX):
            raise ValueError(f"must not have names in it that begin with {RESERVED_PREFIX}")
        if len(step.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"must not have names in it of more than {MAX_NAME_BYTES} bytes")


def _relative(value: str) -> str:
    if value:
        _check_steps(value.split("/"))
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must begin with '/'")
    if value != "/":
        _check_steps(value[1:].split("/"))
    return value


RelativeFolder = Annotated[str, AfterValidator(one_line), AfterValidator(_relative)]
"""`sites/blog`: below something, or empty for that itself."""

AbsoluteFolder = Annotated[str, Field(max_length=MAX_FOLDER_CHARS), AfterValidator(one_line), AfterValidator(_absolute)]
"""`/public`: as an FTP client sees it, `/` is the home."""

Right = Literal["list", "read", "write", "delete", "overwrite"]


class FolderRule(BaseModel):
    """What may be done in a folder and below it, as far as no rule of a folder further down says otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    folder: Annotated[AbsoluteFolder, Field(examples=["/public"])]
    allow: Annotated[list[Right], Field(max_length=100, examples=[["list", "read", "write", "overwrite"]])]


def _rules(rules: list[FolderRule]) -> list[dict[str, Any]]:
    folders = [rule.folder for rule in rules]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"must not name {folder} twice")
    return [{"folder": rule.folder, "allow": list(dict.fromkeys(rule.allow))} for rule in rules]


FolderRules = Annotated[list[FolderRule], Field(max_length=MAX_RULES), AfterValidator(_rules)]
"""Validated, and then plain objects, as they are stored."""
