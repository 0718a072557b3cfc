"""The query parameters of lists, and the headers of their answers."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator

from wsp.paging import Page
from wsp.rest.fields import one_line

MAX_OFFSET = 2**31 - 1

Text = Annotated[str, AfterValidator(one_line)]
Limit = Annotated[int | None, Query(ge=1, le=MAX_OFFSET, description="How many at most; all of them when left out")]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="How many to pass over first")]
Search = Annotated[Text, Query(max_length=200, description="Only those with this text, in any case")]


async def _page(
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = "",
    domain: Annotated[Text, Query(max_length=253, description="Only those of this domain")] = "",
    owner: Annotated[Text, Query(max_length=32, description="Only those of this owner (for admins)")] = "",
) -> Page:
    return Page(limit=limit, offset=offset, search=search, domain=domain.lower(), owner=owner)


async def _short_page(limit: Limit = None, offset: Offset = 0, search: Search = "") -> Page:
    return Page(limit=limit, offset=offset, search=search)


PageQuery = Annotated[Page, Depends(_page)]
ShortPageQuery = Annotated[Page, Depends(_short_page)]

LIST_HEADERS = {
    "X-Total-Count": {"description": "How many there are in all", "schema": {"type": "integer"}},
    "Link": {
        "description": "The next and previous part (RFC 8288), when `limit` is given",
        "schema": {"type": "string"},
    },
}


def describe_page(request: Request, response: Response, page: Page, total: int) -> None:
    """Say in the headers how many there are, and where the neighbouring parts of the list are."""
    response.headers["X-Total-Count"] = str(total)
    links = []
    if page.limit is not None:
        if page.offset + page.limit < total:
            links.append(_link(request, page.offset + page.limit, "next"))
        if page.offset > 0:
            links.append(_link(request, max(0, page.offset - page.limit), "prev"))
    if links:
        response.headers["Link"] = ", ".join(links)


def _link(request: Request, offset: int, relation: str) -> str:
    # Relative to the request, so that it holds behind any proxy.
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "offset"]
    return f'<{request.url.path}?{urlencode([*query, ("offset", offset)])}>; rel="{relation}"'
