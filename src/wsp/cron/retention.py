"""How many runs a job's log keeps."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from wsp.cron.models import JobRun


def prune(session: Session, job_id: int, keep: int) -> None:
    """Delete the runs of a job that are older than its newest `keep`; one that still runs stays.

    Walks `keep` entries of an index, and deletes next to nothing when called after every run.
    """
    oldest_kept = (
        select(JobRun.id)
        .where(JobRun.job_id == job_id)
        .order_by(JobRun.id.desc())
        .offset(keep - 1)
        .limit(1)
        .scalar_subquery()
    )
    session.execute(
        delete(JobRun).where(JobRun.job_id == job_id, JobRun.id < oldest_kept, JobRun.status != "running"),
        execution_options={"synchronize_session": False},
    )
