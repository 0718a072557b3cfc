"""One transaction per request: it commits before the answer is sent."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from wsp.rest.idempotency import leave_claim
from wsp.rest.state import get_state


def get_session(request: Request) -> Iterator[Session]:
    """A session whose changes are committed when the endpoint returned, and undone when it raised."""
    state = get_state(request)
    with state.database.transaction() as session:
        leave_claim(request, session)
        yield session
    state.version.note_commit()


async def get_reader(request: Request) -> AsyncIterator[Session]:
    """A session for looking only. Neither opening nor closing it waits for the store, so neither needs a thread."""
    with get_state(request).database.reading() as session:
        yield session


async def get_zone(request: Request) -> ZoneInfo:
    """The time zone of answers."""
    return get_state(request).zone


Writer = Annotated[Session, Depends(get_session, scope="function")]
Reader = Annotated[Session, Depends(get_reader, scope="function")]
Zone = Annotated[ZoneInfo, Depends(get_zone)]
