"""The query parameters of lists, and the headers of their answers."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Request
from pydantic import AfterValidator, ConfigDict, Field

from wsp.paging import Page
from wsp.rest.bodies import RequestBody, left_out
from wsp.rest.fields import one_line

MAX_OFFSET = 2**31 - 1

Text = Annotated[str, AfterValidator(one_line)]


class ShortParameters(RequestBody):
    """What every list takes."""

    model_config = ConfigDict(extra="ignore", strict=False)  # a query string holds nothing but texts

    limit: Annotated[int, Field(ge=1, le=MAX_OFFSET, description="How many at most; all of them when left out")] = (
        left_out()
    )
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="How many to pass over first")] = 0
    search: Annotated[Text, Field(max_length=200, description="Only those with this text, in any case")] = ""


class _OwnedParameters(ShortParameters):
    """What lists of things with an owner take."""

    owner: Annotated[Text, Field(max_length=32, description="Only those of this owner (for admins)")] = ""


class ParametersWithDomain(_OwnedParameters):
    """What lists of things with an owner and a domain take."""

    domain: Annotated[
        Text, Field(max_length=253, description="Only those of this domain"), AfterValidator(str.lower)
    ] = ""


def reader_of(parameters: type[ShortParameters], page_type: type[Page] = Page) -> Any:
    """The dependency that makes a page of these parameters; `page_type` has a field for each."""
    everything = page_type()

    async def page(request: Request) -> Page:
        # Not as parameters of FastAPI: taking five of them apart took a third of the time of a short request.
        if not request.scope["query_string"]:
            return everything
        return page_type(**parameters.model_validate(dict(request.query_params)).model_dump())

    return Depends(page)


def documented(parameters: type[ShortParameters]) -> dict[str, Any]:
    """These parameters for `openapi_extra`."""
    fields = parameters.model_json_schema()["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
            for name, schema in fields.items()
        ]
    }


PageQuery = Annotated[Page, reader_of(ParametersWithDomain)]
PAGE_PARAMETERS = documented(ParametersWithDomain)
"""For `openapi_extra` of an endpoint that takes a `PageQuery`."""

OwnedPageQuery = Annotated[Page, reader_of(_OwnedParameters)]
OWNED_PAGE_PARAMETERS = documented(_OwnedParameters)
"""The same for an `OwnedPageQuery`."""

ShortPageQuery = Annotated[Page, reader_of(ShortParameters)]
SHORT_PAGE_PARAMETERS = documented(ShortParameters)
"""The same for a `ShortPageQuery`."""

LIST_HEADERS = {
    "X-Total-Count": {"description": "How many there are in all", "schema": {"type": "integer"}},
    "Link": {
        "description": "The next and previous part (RFC 8288), when `limit` is given",
        "schema": {"type": "string"},
    },
}


def page_headers(request: Request, page: Page, total: int) -> dict[str, str]:
    """Headers that say how many there are, and where the neighbouring parts of the list are."""
    headers = {"X-Total-Count": str(total)}
    links = []
    if page.limit is not None:
        if page.offset + page.limit < total:
            links.append(_link(request, page.offset + page.limit, "next"))
        if page.offset > 0:
            links.append(_link(request, max(0, page.offset - page.limit), "prev"))
    if links:
        headers["Link"] = ", ".join(links)
    return headers


def _link(request: Request, offset: int, relation: str) -> str:
    # Relative to the request, so that it holds behind any proxy.
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "offset"]
    return f'<{request.url.path}?{urlencode([*query, ("offset", offset)])}>; rel="{relation}"'
