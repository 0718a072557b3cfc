"""What the application hands to its endpoints."""

import asyncio
from collections.abc import Awaitable, Callable
from zoneinfo import ZoneInfo

from fastapi import Request

from wsp.database import Database
from wsp.rest.kept import KeptAnswers
from wsp.settings import Settings
from wsp.version import StoreVersion

Authenticate = Callable[[Request], Awaitable[object]]
"""Raises Unauthorized or Forbidden when the request carries no good key."""


class State:
    """The wiring of one application, at `app.state.wsp`."""

    def __init__(
        self, settings: Settings, database: Database, version: StoreVersion, authenticate: Authenticate
    ) -> None:
        self.settings = settings
        self.database = database
        self.version = version
        self.authenticate = authenticate
        self.kept = KeptAnswers(version)
        self.ending = asyncio.Event()
        """Set when the server begins to stop: an answer without an end of its own has to end then."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of answers."""
        return self.settings.zone


def get_state(request: Request) -> State:
    """The state of the application that serves this request."""
    state: State = request.app.state.wsp
    return state
