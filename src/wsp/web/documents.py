"""`/openapi.json`, and `/docs` from files that come with the package: neither needs the internet."""

from pathlib import Path
from typing import Any

import fastapi_swagger
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from wsp.rest.answers import failure_schemas

DESCRIPTION = """\
Two tools of a hosting panel behind one API: **FTP accounts**, which an embedded FTP server really serves, and
**cron jobs**, which a scheduler really runs.

Send `Authorization: Bearer wsp_…` with every request. Every path works with and without its trailing slash.
Every error has the same shape, and its `message` says what would be right. A POST with an `Idempotency-Key`
can be repeated safely for 24 hours.
"""

TAGS = [
    {"name": "FTP accounts", "description": "Accounts, their restrictions, and anonymous FTP per domain"},
    {"name": "Cron jobs", "description": "Jobs, and the log of their runs"},
    {"name": "Webhooks", "description": "Addresses that are told of what happens, and what was delivered to them"},
    {"name": "API keys", "description": "Issue, list and revoke keys"},
    {"name": "Authentication", "description": "Who a key belongs to"},
    {"name": "Health", "description": "For load balancers and monitoring"},
]

OPENAPI_URL = "/openapi.json"
ASSETS_URL = "/docs/assets"

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A repeated request with the same key and body within 24 hours gets the first one's answer",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def install(app: FastAPI) -> None:
    """Add the document and the page to the application."""
    # How FastAPI's documentation has the document replaced.
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]

    @app.get(OPENAPI_URL, include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    @app.get("/docs/", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=root + OPENAPI_URL,
            title=f"{app.title} API",
            swagger_js_url=f"{root}{ASSETS_URL}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS_URL}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS_URL}/favicon-32x32.png",
        )

    assets = Path(fastapi_swagger.__file__).parent / "resources"
    app.mount(ASSETS_URL, StaticFiles(directory=assets), name="docs-assets")


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
        servers=[{"url": "/"}],
    )
    for path in document["paths"].values():
        for method, operation in path.items():
            operation["responses"].pop("422", None)  # bad input is 400 here
            if method == "post":
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    schemas = document["components"]["schemas"] | jsonable_encoder(failure_schemas(), exclude_none=True)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    app.openapi_schema = document
    return document
