"""What can go wrong, in the domain's own terms. Nothing here knows of HTTP, FTP or a terminal.

The sentence of an error is written for the person who made the request; the edges (REST, CLI) pass it on unchanged.
"""

from typing import ClassVar


class WspError(Exception):
    """Something the caller can be told about, in one sentence."""

    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence or self.__doc__)

    @property
    def sentence(self) -> str:
        """The message, for a person."""
        return str(self.args[0])


class Invalid(WspError):
    """The request is not valid"""

    code = "VALIDATION_ERROR"

    def __init__(self, sentence: str | None = None, *, field: str = "", details: list[tuple[str, str]] | None = None):
        """`details` are (field, sentence) pairs; with `field` alone they are made from it and the sentence."""
        super().__init__(sentence)
        self.details = details or ([(field, self.sentence)] if field else [])


class Unauthorized(WspError):
    """Invalid or expired API key"""

    code = "UNAUTHORIZED"


class Forbidden(WspError):
    """This API key may not do that"""

    code = "FORBIDDEN"


class NotFound(WspError):
    """Not found"""

    code = "NOT_FOUND"


class Conflict(WspError):
    """That is already taken"""

    code = "CONFLICT"


class Unavailable(WspError):
    """That cannot be done right now"""

    code = "SERVICE_UNAVAILABLE"


class StartupError(WspError):
    """The server cannot start"""
