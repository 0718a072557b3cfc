"""Answers that several areas share, and how OpenAPI shows what can go wrong."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

STATUS_OF = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
CODE_OF = {status: code for code, status in STATUS_OF.items()}
SCHEMAS = "#/components/schemas/{model}"


Total = Annotated[int, Field(description="All that match, also beyond `limit`", examples=[1])]


class Message(BaseModel):
    """A sentence that says what was done."""

    message: Annotated[str, Field(examples=["FTP account deleted successfully"])]


class Detail(BaseModel):
    """What is wrong with one field."""

    field: Annotated[str, Field(examples=["username"])]
    message: Annotated[str, Field(examples=["Username must be at least 2 characters"])]


class Failure(BaseModel):
    """Every answer that is not a success. `error` and `message` hold the same sentence."""

    success: Annotated[bool, Field(examples=[False])]
    code: Annotated[str, Field(examples=["VALIDATION_ERROR"])]
    error: Annotated[str, Field(examples=["Username must be at least 2 characters"])]
    message: Annotated[str, Field(examples=["Username must be at least 2 characters"])]
    status: Annotated[int, Field(examples=[400])]
    details: Annotated[list[Detail] | None, Field(description="On validation errors: each field and its trouble")] = (
        None
    )
    request_id: Annotated[str | None, Field(description="On 500: what to look for in the server's log")] = None


_EXAMPLES = {
    400: "Username must be at least 2 characters",
    401: "Invalid or expired API key",
    403: "API key is not scoped for 'ftp'",
    404: "Not found",
    409: "That is already taken",
    413: "The request body must be at most 1048576 bytes",
    429: "Too many requests, try again in 20 seconds",
    500: "Something went wrong on the server",
    503: "The service cannot answer right now, try again shortly",
}


def failures(*statuses: int, only: tuple[int, ...] | None = None) -> dict[int | str, dict[str, Any]]:
    """The error answers of an operation for OpenAPI: those given, and those every operation of the API can give."""
    everywhere = (400, 401, 403, 413, 429, 500, 503) if only is None else only
    return {status: _failure(status) for status in sorted({*everywhere, *statuses})}


def _failure(status: int) -> dict[str, Any]:
    sentence = _EXAMPLES[status]
    example = {"success": False, "code": CODE_OF[status], "error": sentence, "message": sentence, "status": status}
    # Not `"model": Failure`: FastAPI would make a validator of it for each status of each route.
    return {
        "description": CODE_OF[status],
        "content": {"application/json": {"schema": {"$ref": SCHEMAS.format(model="Failure")}, "example": example}},
    }


def failure_schemas() -> dict[str, Any]:
    """What `failures()` refers to, for the components of the document."""
    failure = Failure.model_json_schema(ref_template=SCHEMAS)
    return {**failure.pop("$defs"), "Failure": failure}
