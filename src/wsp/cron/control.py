"""What keeps the jobs of owners from being started: pauses, and maintenance windows.

The planner looks at these rows with each tick; nothing has to be armed anew.
"""

from datetime import datetime

from sqlalchemy import case, or_, select
from sqlalchemy.orm import Session

from wsp.cron.models import Maintenance, Pause
from wsp.cron.notices.watch import begin_anew
from wsp.database import insert_into, utc_now
from wsp.errors import Conflict, Forbidden, NotFound
from wsp.owners import require_owner
from wsp.paging import Page, fetch, matching

MAX_WINDOWS = 100  # of one owner: the planner looks at all of them
MAX_WINDOW_ID = 2**63 - 1


def pause(session: Session, owner: str, *, until: datetime | None, reason: str) -> Pause:
    """Hold up all jobs of an owner until an instant, or until `resume`. Raises Invalid when there is no such owner.

    Jobs that are paused already stay so, from then on for this reason and until this instant.
    """
    require_owner(session, owner)
    now = utc_now()
    # In one statement: of two that find no pause at the same moment, the second would fail.
    statement = insert_into(session, Pause).values(owner=owner, paused_at=now, until=until, reason=reason)
    holds = or_(Pause.until.is_(None), Pause.until > now)
    set_ = {"paused_at": case((holds, Pause.paused_at), else_=now), "until": until, "reason": reason}
    upsert = statement.on_conflict_do_update(index_elements=[Pause.owner], set_=set_).returning(Pause)
    return session.scalars(upsert, execution_options={"populate_existing": True}).one()


def resume(session: Session, owner: str) -> None:
    """Let the jobs of an owner be started again. Raises Invalid when there is no such owner."""
    require_owner(session, owner)
    paused = session.get(Pause, owner, with_for_update=True)
    if paused is not None:
        session.delete(paused)
        session.flush()
        begin_anew(session, owner, utc_now())


def pause_of(session: Session, owner: str) -> Pause | None:
    """The pause that holds up an owner's jobs now. Raises Invalid when there is no such owner."""
    require_owner(session, owner)
    paused = session.get(Pause, owner)
    return paused if paused is not None and _holds(paused, utc_now()) else None


def _holds(paused: Pause, now: datetime) -> bool:
    return paused.until is None or now < paused.until


# --- Maintenance windows ----------------------------------------------------------------------------------------


def create_window(
    session: Session,
    *,
    owner: str | None,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    cron_expr: str = "",
    duration_seconds: int = 0,
    timezone: str = "",
    tag: str = "",
    reason: str = "",
) -> Maintenance:
    """Add a window: once, from `starts_at` to `ends_at`, or each time that `cron_expr` begins one. Owner None: for all.

    Raises Invalid when there is no such owner, Conflict when they have as many as they may.
    """
    if owner is not None:
        require_owner(session, owner)
    theirs = select(Maintenance.id).where(Maintenance.owner.is_(None) if owner is None else Maintenance.owner == owner)
    if len(session.scalars(theirs.limit(MAX_WINDOWS)).all()) == MAX_WINDOWS:
        raise Conflict(f"There may be {MAX_WINDOWS} maintenance windows at most; delete some that are over")
    window = Maintenance(
        owner=owner,
        starts_at=starts_at,
        ends_at=ends_at,
        cron_expr=cron_expr,
        duration_seconds=duration_seconds,
        timezone=timezone,
        tag=tag,
        reason=reason,
        created_at=utc_now(),
    )
    session.add(window)
    session.flush()
    return window


def list_windows(session: Session, visible_to: str | None, page: Page) -> tuple[list[Maintenance], int]:
    """A part of the windows, oldest first, and how many match in all: an owner's own, and those for everybody."""
    query = matching(select(Maintenance), page.search, [Maintenance.reason, Maintenance.tag])
    if visible_to is not None:
        query = query.where(or_(Maintenance.owner == visible_to, Maintenance.owner.is_(None)))
    if page.owner:
        query = query.where(Maintenance.owner == page.owner)
    return fetch(session, query.order_by(Maintenance.id), page)


def delete_window(session: Session, visible_to: str | None, window_id: int) -> None:
    """Remove a window. Raises NotFound, and Forbidden for one that is for everybody."""
    window = session.get(Maintenance, window_id) if 0 < window_id <= MAX_WINDOW_ID else None
    if window is None or (visible_to is not None and window.owner not in (None, visible_to)):
        raise NotFound("Maintenance window not found")
    if visible_to is not None and window.owner is None:
        raise Forbidden("Only an admin may delete a maintenance window of all owners")
    session.delete(window)
    session.flush()
