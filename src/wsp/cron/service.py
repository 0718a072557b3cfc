"""Cron jobs as their owners handle them. `visible_to` is the only owner whose jobs exist; None: all do.

When a job is due is the planner's business: a change here raises `revision`, and the planner arms the job anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from wsp.cron import chains
from wsp.cron.job_events import announce_changes, announce_job
from wsp.cron.models import CronJob
from wsp.cron.planning.rows import JOBS
from wsp.cron.policy import Policy
from wsp.cron.tags import has_tag, joined
from wsp.cron.variables import with_variables
from wsp.database import utc_now
from wsp.errors import Conflict, Invalid, NotFound
from wsp.homes import home_dir
from wsp.owners import require_owner
from wsp.paging import Page, Pieces, Shape, matching

MAX_JOB_ID = 2**63 - 1
NAMED = 10  # jobs in a sentence

# What a list shows: plain rows, which cost a fraction of what objects cost.
_SHOWN = Shape(each for each in JOBS.c if each.name not in ("failures_in_row", "alarm", "due_from", "expect_by"))

_POLICIES = frozenset(each.name for each in fields(Policy))
_CONCERNS_PLANNER = {"cron_expr", "timezone", "enabled"}
_CONCERNS_WATCH = {"enabled", "expect_every", "grace_seconds"}


@dataclass(frozen=True, slots=True)
class JobPage(Page):
    """What of the list of jobs is wanted."""

    tag: str | None = None
    enabled: bool | None = None


def create_job(
    session: Session,
    *,
    owner: str,
    name: str,
    command: str,
    cron_expr: str = "",
    after: chains.Links | None = None,
    **given: Any,
) -> CronJob:
    """Add a job. The expression is taken as it is, as all of `given`: check it first.

    `given` are columns, `tags` as a list, and policies by their names; `env` as `wsp.cron.variables` reads it.
    What is not named holds its default. Raises Invalid when there is no such owner, when a job to run after is
    missing, or when the job has neither times nor another one to run after.
    """
    now = utc_now()
    job = CronJob(
        owner=require_owner(session, owner),
        name=name,
        command=command,
        cron_expr=cron_expr,
        timezone="",
        domain="",
        enabled=True,
        email_on_complete="",
        email_on_error=False,
        description="",
        tags="",
        policy=None,
        created_at=now,
        updated_at=now,
        last_run_ok=False,
        due_from=now,
        revision=1,
        armed_revision=0,
    )
    _apply(job, given)
    job.expect_by = _expect_by(job, now)
    session.add(job)
    session.flush()
    if after:
        chains.lock(session, owner)
        chains.set_parents(session, job, after)
    elif not cron_expr:
        raise _needs_times()
    announce_job(session, job, "job.created")
    return job


def list_jobs(session: Session, visible_to: str | None, page: JobPage) -> Pieces:
    """A part of the jobs, oldest first: rows with what is shown, not whole jobs."""
    query = matching(select(*_SHOWN.columns), page.search, [CronJob.name, CronJob.command, CronJob.description])
    for owner in (visible_to, page.owner or None):
        if owner is not None:
            query = query.where(CronJob.owner == owner)
    if page.domain:
        query = query.where(CronJob.domain == page.domain)
    if page.tag is not None:
        query = query.where(has_tag(page.tag))
    if page.enabled is not None:
        # In a way that no index serves: SQLite would take the one on it, and sort all that it finds for each piece.
        query = query.where(CronJob.enabled.is_not(not page.enabled))
    return Pieces(session, _SHOWN, query, CronJob.id, page)


def get_job(session: Session, visible_to: str | None, job_id: int, *, change: bool = False) -> CronJob:
    """One job; with `change`, locked until the commit. Raises NotFound."""
    query = _visible(visible_to).where(CronJob.id == job_id)
    job = session.scalar(query.with_for_update() if change else query) if 0 < job_id <= MAX_JOB_ID else None
    if job is None:
        raise NotFound("Cron job not found")
    return job


def change_job(session: Session, visible_to: str | None, job_id: int, changes: Mapping[str, Any]) -> CronJob:
    """Set what is named, as `create_job` takes it.

    Another expression or time zone, or being enabled or disabled, has the planner arm the job anew: it is due from now
    on. Raises NotFound, and Invalid as `create_job` does.
    """
    if "after" in changes or changes.get("cron_expr") == "":
        _lock_chains(session, job_id)
    job = get_job(session, visible_to, job_id, change=True)
    if not changes:
        return job
    given, now = dict(changes), utc_now()
    links: chains.Links | None = given.pop("after", None)
    changed = _apply(job, given)
    if links is not None and chains.set_parents(session, job, links):
        changed.add("after")
    if not job.cron_expr and changed & {"cron_expr", "after"} and not chains.parents_of(session, job.id):
        raise _needs_times()
    if changed & _CONCERNS_PLANNER:
        job.revision += 1
        job.due_from = now
    if changed & _CONCERNS_WATCH:
        job.expect_by = _expect_by(job, now)
    job.updated_at = now
    session.flush()
    announce_changes(session, job, changed)
    return job


def toggle_job(session: Session, visible_to: str | None, job_id: int) -> CronJob:
    """Enable a disabled job, disable an enabled one."""
    enabled = get_job(session, visible_to, job_id, change=True).enabled
    return change_job(session, visible_to, job_id, {"enabled": not enabled})


def delete_job(session: Session, visible_to: str | None, job_id: int) -> None:
    """Remove the job and its runs. A command that is running is not stopped.

    Raises Conflict when another job would never run again without it.
    """
    if chains.has_followers(session, get_job(session, visible_to, job_id).id):
        _lock_chains(session, job_id)
    job = get_job(session, visible_to, job_id, change=True)
    if followers := chains.left_with_nothing(session, job.id):
        raise Conflict(
            f"Nothing but this job starts {_these(followers)}: delete {'it' if len(followers) == 1 else 'them'} first, "
            f"or give {'it' if len(followers) == 1 else 'them'} a cron expression"
        )
    session.delete(job)
    session.flush()
    announce_job(session, job, "job.deleted")


def _lock_chains(session: Session, job_id: int) -> None:
    query = select(CronJob.owner).where(CronJob.id == job_id)
    owner = session.scalar(query) if 0 < job_id <= MAX_JOB_ID else None
    if owner is not None:
        chains.lock(session, owner)


def _apply(job: CronJob, given: Mapping[str, Any]) -> set[str]:
    """Set columns and policies by their names. Returns the names of those that have changed."""
    columns = {name: value for name, value in given.items() if name not in _POLICIES}
    if "tags" in columns:
        columns["tags"] = joined(columns["tags"])
    changed = {name for name, value in columns.items() if getattr(job, name) != value}
    for name, value in columns.items():
        setattr(job, name, value)
    policies = {name: value for name, value in given.items() if name in _POLICIES}
    if policies:
        before = Policy.of(job.policy)
        if "env" in policies:
            policies |= with_variables(before, policies["env"])
        if "working_dir" in policies:
            policies["working_dir"] = _below_home(job.owner, policies["working_dir"])
        after = replace(before, **policies)
        differing = {name for name in _POLICIES if getattr(before, name) != getattr(after, name)}
        changed |= {"env" if name == "secrets" else name for name in differing}
        job.policy = after.stored()
    return changed


def _below_home(owner: str, folder: str) -> str:
    """The folder as seen from the owner's home, which is empty for the home itself. Raises Invalid."""
    home = home_dir(owner)
    steps = [step for step in folder.split("/") if step not in ("", ".")]
    if not folder.startswith("/"):
        return "/".join(steps)
    if steps[:2] != home.split("/")[1:]:
        raise Invalid(f"Working dir must be a folder below {home}", field="working_dir")
    return "/".join(steps[2:])


def _expect_by(job: CronJob, now: datetime) -> datetime | None:
    policy = Policy.of(job.policy)
    if not job.enabled or not policy.expect_every:
        return None
    return now + timedelta(seconds=policy.expect_every + policy.grace_seconds)


def _these(job_ids: Sequence[int]) -> str:
    more = f" and {len(job_ids) - NAMED} more" if len(job_ids) > NAMED else ""
    return f"job{'s' if len(job_ids) > 1 else ''} {', '.join(map(str, job_ids[:NAMED]))}{more}"


def _needs_times() -> Invalid:
    return Invalid("Cron expression is required", field="cron_expr")


def _visible(visible_to: str | None) -> Select[CronJob]:
    query = select(CronJob)
    return query if visible_to is None else query.where(CronJob.owner == visible_to)
