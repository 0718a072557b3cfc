"""Looks after the runs of schedulers that died, while this one lives."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from wsp.cron.server.dispatch import Dispatcher
from wsp.cron.server.offload import Offload
from wsp.cron.server.recovery import (
    SUSPECT_SECONDS,
    Orphan,
    Suspicion,
    end_commands,
    find_orphans,
    forget_runners,
    give_back,
    lost,
    output_left,
)
from wsp.database import utc_now

LOOK_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Caretaker:
    """Adopts what still runs, gives back what was never started, and closes what is lost. Lives on one event loop."""

    def __init__(
        self,
        offload: Offload,
        dispatcher: Dispatcher,
        service_id: str,
        data_dir: Path,
        *,
        on_given_back: Callable[[], None],
    ) -> None:
        self._offload = offload
        self._dispatcher = dispatcher
        self._service_id = service_id
        self._data_dir = data_dir
        self._on_given_back = on_given_back
        self._suspicion = Suspicion()
        self._is_untidy = True  # there may be runners written down that nobody will ask for any more

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
            # Before anything is called lost: what a living runner knows is not.
            await self._dispatcher.adopt()
            found = await self._offload.read(self._find)
            orphans = self._suspicion.confirmed(found, time.monotonic())
            if orphans:
                await self._see_to(orphans)
            elif self._is_untidy and not found:
                await self._offload.change(forget_runners)
            self._is_untidy = bool(found)
        except (SQLAlchemyError, OSError) as error:
            logger.warning("could not look for lost runs: %s", error)
        except Exception:
            logger.exception("could not look for lost runs")

    def _find(self, session: Session) -> list[Orphan]:
        # A run that is just being planned, or whose end is just being written, may look like one: Suspicion waits.
        return find_orphans(
            session, utc_now(), service_id=self._service_id, active=self._dispatcher.run_ids, met=self._dispatcher.met
        )

    async def _see_to(self, orphans: list[Orphan]) -> None:
        now = utc_now()
        unstarted: list[Orphan] = []
        gone: list[Orphan] = []
        for orphan in orphans:
            (unstarted if orphan.was_never_started(now, self._dispatcher.met) else gone).append(orphan)
        if unstarted:
            await self._offload.change(lambda session: _give_back(session, unstarted))
            logger.info("%s runs of a dead scheduler were not started yet, and wait again", len(unstarted))
            self._on_given_back()
        if gone:
            count = await self._offload.call(lambda: end_commands(gone))
            logger.warning("%s runs were lost; %s processes of theirs were ended", len(gone), count)
            for orphan in gone:
                output = await self._offload.call(partial(output_left, self._data_dir, orphan.run.run_id))
                result = lost(orphan, utc_now(), self._service_id, output)
                self._dispatcher.close_orphan(orphan.run, result, orphan.service_id)


def _give_back(session: Session, orphans: list[Orphan]) -> None:
    for service_id in {orphan.service_id for orphan in orphans}:
        give_back(session, [one.run.run_id for one in orphans if one.service_id == service_id], service_id)
