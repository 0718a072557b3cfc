"""What webhooks are told of cron jobs."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from wsp.cron.models import CronJob
from wsp.cron.policy import Policy
from wsp.cron.tags import tags_of
from wsp.cron.variables import shown_variables
from wsp.webhooks.service import emit

_COLUMNS = (
    *("id", "owner", "name", "command", "cron_expr", "timezone", "domain", "enabled"),
    *("email_on_complete", "email_on_error", "description", "created_at", "updated_at"),
)


def announce_job(session: Session, job: CronJob, event: str, **more: Any) -> None:
    """Tell of a job as it is now, without the values of secrets. Times are in UTC."""
    columns = {name: _plain(getattr(job, name)) for name in _COLUMNS}
    policy = {name: value for name, value in (job.policy or {}).items() if name not in ("env", "secrets")}
    if job.policy and "env" in job.policy:
        policy["env"] = shown_variables(Policy.of(job.policy))
    emit(session, job.owner, event, columns | {"tags": tags_of(job)} | policy | more)


def announce_changes(session: Session, job: CronJob, changed: Collection[str]) -> None:
    """Tell that what is named has changed: of `enabled` by its own event, of all else by one."""
    if "enabled" in changed:
        announce_job(session, job, "job.enabled" if job.enabled else "job.disabled")
    names = sorted(name for name in changed if name != "enabled")
    if names:
        announce_job(session, job, "job.updated", changed=names)


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
