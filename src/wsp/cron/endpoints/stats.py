"""`/api/v1/cronjobs/{id}/stats`: how a job has been doing."""

from typing import Annotated

from fastapi import Path, Query

from wsp.auth.dependencies import Principal, caller
from wsp.cron import service
from wsp.cron.history import stats
from wsp.cron.schedule.zones import zone_for
from wsp.cron.schemas.stats import JobStats
from wsp.database import utc_now
from wsp.rest.answers import failures
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Zone

MAX_DAYS = 366

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())


@router.get(
    "/{id}/stats", operation_id="getCronJobStats", summary="Show figures of a cron job", responses=failures(404)
)
def get_stats(
    id: Annotated[int, Path(description="The job's id", examples=[5])],
    caller: Annotated[Principal, caller("cron")],
    session: Reader,
    zone: Zone,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="How many days, today included")] = 30,
) -> JobStats:
    """Success rate, durations, lateness and last failures, in all and by day, from the runs that the log still has."""
    job = service.get_job(session, caller.sees_owner, id)
    job_zone = zone_for(job.timezone, zone)
    return JobStats.of(job.id, stats.of_job(session, job.id, utc_now(), days=days, zone=job_zone), zone, job_zone)
