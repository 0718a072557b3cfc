"""Routes as the contract wants them: both slash forms without a redirect, JSON bodies, repeatable POSTs."""

import email.message
import inspect
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from wsp.errors import Invalid
from wsp.rest.idempotency import make_claim, take_claim
from wsp.rest.state import get_state

API_BASE = "/api/v1"

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route that reads its body as JSON or says why not, and answers a repeated POST from the store.

    Its path fits with and without a slash at the end. A second route for that would take as long to make as the first.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$").removesuffix("/") + "/?$")

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler. What happens here is before the commit and before anything is sent."""
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def handler(request: Request) -> Response:
            if has_body or request.method == "POST":
                await get_state(request).authenticate(request)  # before a stranger's body is looked at
            if has_body:
                await _read_json(request)
            elif request.method == "POST":
                await _expect_no_body(request)
            claim = await make_claim(request)
            response = await handle(request)
            if claim is not None:
                claim.keep(response)
            return response

        return handler


async def _read_json(request: Request) -> None:
    """See to it that FastAPI finds a body that it can read. Raises Invalid."""
    body = await request.body()
    if not body.strip():
        # No body at all is an empty object: the first required field is what is missing, not "a body".
        request._body = b"{}"
    elif request.headers.get("content-type", "").strip() and not _is_json(request.headers["content-type"]):
        raise Invalid("Content-Type must be application/json", field="Content-Type")
    headers = request.scope["headers"]  # changed in place: the request has looked at them already
    headers[:] = [pair for pair in headers if pair[0] != b"content-type"]
    headers.append((b"content-type", b"application/json"))
    try:
        await request.json()
    except json.JSONDecodeError as error:
        raise Invalid(f"The body is not valid JSON: {error}", field="body") from None
    except UnicodeDecodeError:
        raise Invalid("The body is not valid JSON: it is not UTF-8", field="body") from None
    except ValueError:
        raise Invalid("The body is not valid JSON: a number in it is too long", field="body") from None
    except RecursionError:
        raise Invalid("The body is nested too deeply", field="body") from None


def _is_json(content_type: str) -> bool:
    header = email.message.Message()
    header["content-type"] = content_type
    return header.get_content_type() == "application/json"


async def _expect_no_body(request: Request) -> None:
    body = (await request.body()).strip()
    if body not in (b"", b"{}"):
        raise Invalid("This call takes no body", field="body")


class Router(APIRouter):
    """Makes routes of that kind. `prefix` is the whole path that its own begin with.

    An application takes its `routes`: `include_router()` would make each of them anew, when the first request comes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=Route, redirect_slashes=False, **options)

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add the route, which keeps a thread busy while a plain function works."""
        call = endpoint if inspect.iscoroutinefunction(endpoint) else _on_thread(endpoint)
        super().add_api_route(path, call, **options)


def _on_thread(endpoint: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """A coroutine that runs a plain endpoint on a thread.

    FastAPI would do so by itself, but then it sends the answer to a thread once more, to be validated.
    """

    def work(**arguments: Any) -> T:
        take_claim(arguments.get("session"))
        return endpoint(**arguments)

    async def call(**arguments: Any) -> T:
        return await run_in_threadpool(work, **arguments)

    # Not functools.wraps: FastAPI looks behind `__wrapped__`, and would find a plain function again.
    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    # The attribute is `inspect`'s own protocol; the type of functions does not mention it.
    call.__signature__ = inspect.signature(endpoint, eval_str=True)  # type: ignore[attr-defined]
    return call
