"""The API process."""

import asyncio
import errno
import gc
import logging
import signal
import socket
from typing import Any
from uuid import uuid4

import uvicorn

from wsp.database import Database
from wsp.errors import StartupError
from wsp.heartbeat import Heartbeat
from wsp.settings import Settings
from wsp.web.app import create_app
from wsp.web.protocol import Protocol

GRACE_SECONDS = 5  # requests that are being answered at SIGTERM have this long
KEEP_ALIVE_SECONDS = 65  # longer than what proxies in front usually keep, so that they close first
BACKLOG = 2048

logger = logging.getLogger(__name__)


def run(settings: Settings, *, supervised: bool = False) -> None:
    """Serve the API until SIGTERM or SIGINT. Raises StartupError when the address cannot be had."""
    listener = _listen(settings.http_host, settings.http_port)
    database = Database(settings.database)
    app = create_app(settings, database)
    server = _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.http_trusted_proxies),
            forwarded_allow_ips=[str(network) for network in settings.http_trusted_proxies],
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ),
        app.state.wsp.ending,
    )

    def stop(*_: object) -> None:
        server.should_exit = True

    # While it serves, uvicorn has handlers of its own. It shuts down in order and then raises the signal again, which
    # would end us before we have signed off; and a signal that comes before it serves must not be lost.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    heartbeat = Heartbeat(database, "api", uuid4().hex, on_orphaned=stop if supervised else None)
    heartbeat.start()
    # What the start made stays until the end: looking through it again and again for garbage took a fifth of the time.
    gc.collect()
    gc.freeze()
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    logger.info("API on http://%s:%d", host, settings.http_port)
    try:
        server.run(sockets=[listener])
    finally:
        heartbeat.stop()
        database.close()


class _Server(uvicorn.Server):
    """uvicorn waits for the answers that are on their way; those that have no end are told when it begins to."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell them, then shut down as ever."""
        self._ending.set()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StartupError(f"WSP_HTTP_PORT: port {port} of {host} is in use, a free one is needed") from None
        raise StartupError(f"WSP_HTTP_HOST: cannot listen on {host} port {port}: {error}") from None
    listener.listen(BACKLOG)
    return listener
