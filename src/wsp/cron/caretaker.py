"""Looks after the runs of schedulers that died, while this one lives."""

import asyncio
import logging
import time

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from wsp.cron.dispatch import Dispatcher
from wsp.cron.offload import Offload
from wsp.cron.recovery import SUSPECT_SECONDS, Orphan, Suspicion, end_commands, find_orphans, lost
from wsp.database import utc_now

LOOK_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Caretaker:
    """Ends what is left of lost commands, and closes their rows. Lives on one event loop."""

    def __init__(self, offload: Offload, dispatcher: Dispatcher, service_id: str) -> None:
        self._offload = offload
        self._dispatcher = dispatcher
        self._service_id = service_id
        self._suspicion = Suspicion()

    async def look_at_start(self) -> None:
        """Look before anything is planned, so that no tick is skipped for a run that is no more."""
        await self.look()
        if self._suspicion.since:
            await asyncio.sleep(SUSPECT_SECONDS)
            await self.look()

    async def keep_looking(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """See to those that have been suspects for long enough. Trouble is logged: the next look may go better."""
        try:
            found = await self._offload.read(self._find)
            orphans = self._suspicion.confirmed(found, time.monotonic())
            if orphans:
                await self._see_to(orphans)
        except SQLAlchemyError as error:
            logger.warning("could not look for lost runs: %s", error)
        except Exception:
            logger.exception("could not look for lost runs")

    def _find(self, session: Session) -> list[Orphan]:
        # A run that is just being planned, or whose end is just being written, may look like one: Suspicion waits.
        return find_orphans(session, utc_now(), service_id=self._service_id, active=self._dispatcher.run_ids)

    async def _see_to(self, orphans: list[Orphan]) -> None:
        count = await self._offload.call(lambda: end_commands(orphans))
        logger.warning("%s runs were lost; %s processes of theirs were ended", len(orphans), count)
        for orphan in orphans:
            await self._dispatcher.record(orphan.run, lost(orphan, utc_now(), self._service_id))
