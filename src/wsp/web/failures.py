"""Every answer that is not a success, in the one shape the contract fixes."""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from wsp.errors import Invalid, WspError
from wsp.rest.answers import CODE_OF, STATUS_OF
from wsp.rest.idempotency import REPLAYED_HEADER, Replay

METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")
RETRY_AFTER_SECONDS = "1"

logger = logging.getLogger(__name__)


def failure(
    status: int,
    sentence: str,
    *,
    details: Sequence[tuple[str, str]] = (),
    request_id: str | None = None,
    more: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer in the fixed shape: `{success, code, error, message, status}`, then what we add."""
    body: dict[str, object] = {
        "success": False,
        "code": CODE_OF[status],
        "error": sentence,
        "message": sentence,
        "status": status,
    }
    if details:
        body["details"] = [{"field": field, "message": message} for field, message in details]
    if request_id is not None:
        body["request_id"] = request_id
    body.update(more or {})
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(content, status, headers=headers, media_type="application/json")


def server_failure(error: BaseException) -> Response:
    """The answer to something nobody foresaw. The trace goes to the log, under the id that the answer shows."""
    request_id = secrets.token_hex(8)
    logger.error("request %s failed", request_id, exc_info=error)
    return failure(500, "Something went wrong on the server", request_id=request_id)


def install(app: FastAPI) -> None:
    """Have the application answer every error in the fixed shape."""
    app.add_exception_handler(WspError, _domain_error)
    app.add_exception_handler(Replay, _replay)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(OperationalError, _store_unavailable)
    app.add_exception_handler(PoolTimeout, _store_unavailable)
    app.add_exception_handler(DBAPIError, _store_error)


async def _domain_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WspError)  # noqa: S101 - Starlette's signature says Exception
    status = STATUS_OF[error.code]
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return failure(status, error.sentence, details=error.details if isinstance(error, Invalid) else (), headers=headers)


async def _replay(_request: Request, replay: Exception) -> Response:
    assert isinstance(replay, Replay)  # noqa: S101 - the same
    return Response(replay.body, replay.status, headers={REPLAYED_HEADER: "true"}, media_type="application/json")


async def _bad_parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the same
    details = [(str(e["loc"][-1]), _parameter_sentence(str(e["loc"][-1]), e)) for e in error.errors()]
    return failure(400, details[0][1], details=details)


def _parameter_sentence(name: str, error: Mapping[str, object]) -> str:
    title = name.replace("_", " ").capitalize()
    if error["type"] == "missing":
        return f"{title} is required"
    if error["type"] == "int_parsing":
        return f"{title} must be an integer"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return f"{title} {message.replace('should', 'must')}"


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the same
    status = error.status_code if error.status_code in CODE_OF else (500 if error.status_code >= 500 else 400)
    headers = dict(error.headers or {})
    if status == 404:
        return failure(404, "There is nothing at this address", headers=headers)
    if status == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        return failure(405, f"{request.method} is not allowed here, only {headers['Allow']}", headers=headers)
    return failure(status, str(error.detail), headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    # Each route knows its own method only; RFC 9110 wants all that the address has.
    allowed = [method for method in METHODS if _matches(request, method)] or ["GET"]  # a mounted file tells nothing
    return sorted([*allowed, "HEAD"]) if "GET" in allowed else allowed


def _matches(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


async def _conflict(_request: Request, error: Exception) -> Response:
    # Two requests wanted the same thing at the same moment; the services turn the cases they expect into sentences.
    logger.warning("conflict in the store: %s", type(error).__name__)
    return failure(409, "Another request changed the same thing at the same moment, try again")


async def _store_unavailable(_request: Request, error: Exception) -> Response:
    logger.warning("the store did not answer: %s", error)
    return failure(
        503,
        "The service cannot answer right now, try again shortly",
        headers={"Retry-After": RETRY_AFTER_SECONDS},
    )


async def _store_error(_request: Request, error: Exception) -> Response:
    return server_failure(error)
