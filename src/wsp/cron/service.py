"""Cron jobs as their owners handle them. `visible_to` is the only owner whose jobs exist; None: all do.

When a job is due is the planner's business: a change here raises `revision`, and the planner arms the job anew.
"""

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from wsp.cron.models import CronJob
from wsp.database import utc_now
from wsp.errors import NotFound
from wsp.owners import require_owner
from wsp.paging import Page, fetch, matching

MAX_JOB_ID = 2**63 - 1
_CONCERNS_PLANNER = {"cron_expr", "enabled"}


def create_job(
    session: Session,
    *,
    owner: str,
    name: str,
    command: str,
    cron_expr: str,
    domain: str = "",
    enabled: bool = True,
    email_on_complete: str = "",
    email_on_error: bool = False,
) -> CronJob:
    """Add a job. The expression is taken as it is: check it first. Raises Invalid when there is no such owner."""
    now = utc_now()
    job = CronJob(
        owner=require_owner(session, owner),
        name=name,
        command=command,
        cron_expr=cron_expr,
        domain=domain,
        enabled=enabled,
        email_on_complete=email_on_complete,
        email_on_error=email_on_error,
        created_at=now,
        updated_at=now,
        last_run_ok=False,
        revision=1,
        armed_revision=0,
    )
    session.add(job)
    session.flush()
    return job


def list_jobs(session: Session, visible_to: str | None, page: Page) -> tuple[list[CronJob], int]:
    """A part of the jobs, oldest first, and how many match in all."""
    query = matching(_visible(visible_to), page.search, [CronJob.name, CronJob.command])
    if page.domain:
        query = query.where(CronJob.domain == page.domain)
    if page.owner:
        query = query.where(CronJob.owner == page.owner)
    return fetch(session, query.order_by(CronJob.id), page)


def get_job(session: Session, visible_to: str | None, job_id: int, *, change: bool = False) -> CronJob:
    """One job; with `change`, locked until the commit. Raises NotFound."""
    query = _visible(visible_to).where(CronJob.id == job_id)
    job = session.scalar(query.with_for_update() if change else query) if 0 < job_id <= MAX_JOB_ID else None
    if job is None:
        raise NotFound("Cron job not found")
    return job


def change_job(session: Session, visible_to: str | None, job_id: int, changes: dict[str, Any]) -> CronJob:
    """Set the named columns. A new expression, or being enabled or disabled, has the planner arm the job anew."""
    job = get_job(session, visible_to, job_id, change=True)
    if not changes:
        return job
    if any(getattr(job, name) != value for name, value in changes.items() if name in _CONCERNS_PLANNER):
        job.revision += 1
    for name, value in changes.items():
        setattr(job, name, value)
    job.updated_at = utc_now()
    session.flush()
    return job


def delete_job(session: Session, visible_to: str | None, job_id: int) -> None:
    """Remove the job and its runs. A command that is running is not stopped."""
    session.delete(get_job(session, visible_to, job_id, change=True))
    session.flush()


def _visible(visible_to: str | None) -> Select[CronJob]:
    query = select(CronJob)
    return query if visible_to is None else query.where(CronJob.owner == visible_to)
