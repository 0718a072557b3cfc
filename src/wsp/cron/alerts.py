"""Who is told of starts and ends of runs: mails and webhooks, written down in the transaction that records them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from wsp.cron.work import End, PlannedRun
from wsp.settings import Settings


def on_starts(session: Session, settings: Settings, runs: Sequence[PlannedRun], now: datetime) -> None:
    """Tell of runs that were started."""
    raise NotImplementedError


def on_ends(session: Session, settings: Settings, ends: Sequence[End], now: datetime) -> None:
    """Tell of runs that are over, skipped ones too. Cheap when nobody wants to know. Call after their rows are set."""
    raise NotImplementedError
