"""What the application hands to its endpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from fastapi import Request

from wsp.database import Database
from wsp.settings import Settings


@dataclass
class State:
    """The wiring of one application, at `app.state.wsp`."""

    settings: Settings
    database: Database
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of answers."""
        return self.settings.zone


def get_state(request: Request) -> State:
    """The state of the application that serves this request."""
    state: State = request.app.state.wsp
    return state
