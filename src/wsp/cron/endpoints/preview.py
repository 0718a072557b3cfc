"""`/api/v1/cronjobs/preview`: an expression tried out."""

from typing import Annotated

from wsp.auth.dependencies import Principal, caller
from wsp.cron.schedule.preview import preview
from wsp.cron.schedule.zones import zone_of
from wsp.cron.schemas.preview import PreviewOut, PreviewRequest
from wsp.database import utc_now
from wsp.rest.answers import failures
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Zone

router = Router(prefix=f"{API_BASE}/cronjobs", tags=["Cron jobs"], responses=failures())

Caller = Annotated[Principal, caller("cron")]


@router.post("/preview", operation_id="previewCronExpression", summary="Try out a cron expression")
def preview_expression(body: PreviewRequest, caller: Caller, zone: Zone) -> PreviewOut:
    """The next times at which it would be due, a sentence that says when, and warnings. Nothing is stored."""
    own = zone_of(body.timezone, zone)
    shown = preview(body.cron_expr, body.job_id, body.starts_at(utc_now()), own, body.count)
    return PreviewOut.of(body.cron_expr, own, shown)
