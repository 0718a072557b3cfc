"""The tags of a job, which its row keeps as one text, `,backup,db,`: so that one of them can be looked for."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func

from wsp.cron.models import CronJob


def joined(tags: Sequence[str]) -> str:
    """The text that the row keeps."""
    return f",{','.join(tags)}," if tags else ""


def tags_of(job: CronJob | Row[Any]) -> list[str]:
    """The tags of a job, in the order in which they were given."""
    return job.tags.strip(",").split(",") if job.tags else []


def has_tag(tag: str) -> ColumnElement[bool]:
    """The condition that a job has this tag."""
    # Not LIKE: on SQLite it takes `a` for `A`, and on both stores `_` for any letter.
    return func.replace(CronJob.tags, f",{tag},", "") != CronJob.tags
