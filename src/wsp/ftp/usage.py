"""What homes hold, for the API: rows that the FTP server writes, or a count where it has written none yet."""

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.database import insert_into
from wsp.ftp.counting import Figure, count
from wsp.ftp.models import Usage
from wsp.homes import home_path

COUNT_SECONDS = 1.0  # how long an answer of the API may wait for a count


def usage_of(session: Session, files_root: Path, home: str) -> Figure | None:
    """What a home holds. None: nobody has counted it yet, and it is too big, or not ours, to be counted now."""
    row = session.get(Usage, home)
    if row is not None:
        return Figure(row.used_bytes, row.file_count)
    deadline = time.monotonic() + COUNT_SECONDS

    def rest() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    try:
        folder = os.open(home_path(files_root, home), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Figure(0, 0)  # it is made by the first login
    except OSError:
        return None
    try:
        return count(folder, rest=rest)
    except OSError:  # the deadline included
        return None
    finally:
        os.close(folder)


def store_usage(session: Session, figures: Sequence[tuple[str, Figure, datetime]]) -> None:
    """Write what homes hold, with the time of their last count."""
    statement = insert_into(session, Usage)
    statement = statement.on_conflict_do_update(
        index_elements=[Usage.home_dir],
        set_={name: statement.excluded[name] for name in ("used_bytes", "file_count", "counted_at")},
    )
    session.execute(
        statement,
        [
            {"home_dir": home, "used_bytes": figure.used_bytes, "file_count": figure.file_count, "counted_at": counted}
            for home, figure, counted in sorted(figures)  # in order: nobody waits in a circle
        ],
    )


def homes_counted_before(session: Session, instant: datetime, *, limit: int) -> list[str]:
    """The homes whose last count is the longest ago, of those that were last counted before that instant."""
    query = select(Usage.home_dir).where(Usage.counted_at < instant).order_by(Usage.counted_at).limit(limit)
    return list(session.scalars(query))
