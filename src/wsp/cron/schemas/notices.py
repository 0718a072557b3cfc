"""What the API says of mails about cron jobs."""

from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from wsp.rest.fields import Timestamp, rfc3339

NoticeRow: TypeAlias = Any
"""A row that has what is shown of a Notice."""

Status = Literal["pending", "sent", "failed", "withheld"]

_KINDS = (
    "`run`: how a run ended; `failure`, `recovery`: what `alert_on` asks for; `overdue`: no success in time; "
    "`unusual`: a run much longer or shorter than usual; `summary`: of those that were withheld"
)


class NoticeOut(BaseModel):
    """A mail about a run or a job, from the moment it is owed."""

    id: Annotated[int, Field(examples=[23])]
    job_id: Annotated[int, Field(examples=[5])]
    run_id: Annotated[int | None, Field(description="Null for what is about the job", examples=[17])]
    kind: Annotated[str, Field(description=_KINDS, examples=["failure"])]
    recipient: Annotated[str, Field(examples=["ops@example.com"])]
    subject: Annotated[str, Field(examples=["[web1] cron job nightly failed with exit code 3"])]
    status: Annotated[
        Status,
        Field(
            description="`pending` is sent or tried again; `sent`: a mail server has accepted it; `failed` is not "
            "tried again; `withheld`: there were too many about this job",
            examples=["sent"],
        ),
    ]
    attempts: Annotated[int, Field(examples=[1])]
    error: Annotated[str, Field(description="What went wrong last", examples=[""])]
    due_at: Annotated[Timestamp, Field(description="When there was something to tell: a late alert shows")]
    created_at: Annotated[Timestamp, Field(description="When that was noticed")]
    next_attempt_at: Annotated[Timestamp | None, Field(description="While it is pending")]
    finished_at: Annotated[Timestamp | None, Field(description="When it was sent, given up or withheld")]


def shown_notice(notice: NoticeRow, zone: ZoneInfo) -> dict[str, Any]:
    """A mail as answers show it: what a NoticeOut becomes in the end."""
    return {
        "id": notice.id,
        "job_id": notice.job_id,
        "run_id": notice.run_id,
        "kind": notice.kind,
        "recipient": notice.recipient,
        "subject": notice.subject,
        "status": notice.status,
        "attempts": notice.attempts,
        "error": notice.error,
        "due_at": rfc3339(notice.due_at, zone),
        "created_at": rfc3339(notice.created_at, zone),
        "next_attempt_at": rfc3339(notice.next_attempt_at, zone) if notice.next_attempt_at else None,
        "finished_at": rfc3339(notice.finished_at, zone) if notice.finished_at else None,
    }
