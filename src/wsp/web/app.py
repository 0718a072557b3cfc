"""The application: the only place where the API is wired."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from wsp import __version__
from wsp.auth.dependencies import authenticate
from wsp.auth.endpoints import auth_router, keys_router
from wsp.auth.keyring import Keyring
from wsp.cron.endpoints import ROUTERS as CRON_ROUTERS
from wsp.cron.folders import OUTPUTS
from wsp.cron.history.watching import Watching
from wsp.cron.notices.notifier import Notifier
from wsp.database import Database
from wsp.ftp.endpoints import ROUTERS as FTP_ROUTERS
from wsp.rest.state import State
from wsp.settings import Settings
from wsp.version import store_version
from wsp.web import documents, failures, health, metrics
from wsp.web.gate import Gate
from wsp.webhooks.endpoints import router as webhooks_router
from wsp.webhooks.sender import Sender


def create_app(settings: Settings, database: Database) -> FastAPI:
    """The API on a database. Nothing is connected until the application starts."""
    version = store_version(database)
    keyring = Keyring(database, version)
    sender = Sender(settings, database, version)
    notifier = Notifier(settings, database)
    state = State(settings, database, version, authenticate)
    watching = Watching(database, version, settings.data_dir / OUTPUTS, state.ending)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        version.start()
        sender.start()
        notifier.start()
        yield
        await asyncio.gather(watching.close(), sender.close(), asyncio.to_thread(notifier.close))
        keyring.close()
        version.close()

    app = FastAPI(
        title="wsp",
        version=__version__,
        summary="FTP accounts and cron jobs of a hosting panel",
        description=documents.DESCRIPTION,
        openapi_tags=documents.TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.wsp = state
    app.state.keyring = keyring
    app.state.requests = metrics.RequestCounts()
    app.state.watching = watching
    others = (webhooks_router, auth_router, keys_router, health.router, metrics.router)
    for router in (*FTP_ROUTERS, *CRON_ROUTERS, *others):
        app.router.routes += router.routes
    documents.install(app)
    failures.install(app)
    app.add_middleware(
        Gate,
        rate_limit=settings.rate_limit,
        max_body_bytes=settings.http_max_body_bytes,
        requests=app.state.requests,
    )
    return app
