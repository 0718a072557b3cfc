"""Runs as the owners of their jobs handle them. `visible_to` is the only owner whose jobs exist; None: all do."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.cron.models import JobRun
from wsp.cron.service import get_job
from wsp.paging import Page, fetch, matching


def list_runs(session: Session, visible_to: str | None, job_id: int, page: Page) -> tuple[list[JobRun], int]:
    """A part of the runs of a job, newest first, and how many match in all. Raises NotFound."""
    job = get_job(session, visible_to, job_id)
    query = select(JobRun).where(JobRun.job_id == job.id).order_by(JobRun.scheduled_for.desc(), JobRun.id.desc())
    return fetch(session, matching(query, page.search, [JobRun.output, JobRun.status, JobRun.reason]), page)
