"""Mails that are owed: written down where they come about, and taken from here by whoever sends them.

Any number of senders share the table. One takes a mail by pushing its next attempt into the future, in an update that
only one of them can make. When a sender dies, that moment comes, and another one takes it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo

from sqlalchemy import Select, Table, and_, case, delete, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from wsp.counters import add_to_stored
from wsp.cron import service
from wsp.cron.models import CronJob, Notice
from wsp.cron.notices import mail
from wsp.cron.notices.mail import Text
from wsp.cron.schedule.zones import zone_for
from wsp.heartbeat import node_name
from wsp.paging import Chosen, Page, Shape, fetch, matching
from wsp.settings import Settings

Kind = Literal["run", "failure", "recovery", "overdue", "unusual", "summary"]
PENDING, SENT, FAILED, WITHHELD = "pending", "sent", "failed", "withheld"
SUMMARY: Literal["summary"] = "summary"

RETRY_SECONDS = (2, 30, 300, 1800, 7200, 21600, 54000)  # a day in all
JITTER = 0.2  # of each pause: what failed together is not tried again together
LEASE_SECONDS = 60  # longer than an attempt takes
CANDIDATES = 8
PRUNED_AT_ONCE = 1000
LIMIT_HOURS = 1  # what the limit of mails about a job is counted over, and how long a storm lasts
KEEP_DAYS = 30
KEEP_WITHHELD_DAYS = 1  # a storm leaves many, and the summary tells of them
SUBJECTS_IN_SUMMARY = 20

NO_SERVER = "No mail server is configured (WSP_SMTP_HOST)"
NO_ADDRESS = "There is no address to send it to: set email_on_complete, or the owner's (wsp user set NAME --email …)"

# Not as a parameter: the index of what is pending is found by this very text.
IS_PENDING = Notice.status == literal(PENDING, literal_execute=True)
_COUNTER = "cron_mails_total"

# What a mail says is as much as all the rest, many times over.
_SHOWN = Shape(each for each in cast(Table, Notice.__table__).c if each.name != "body")


@dataclass(frozen=True, slots=True)
class Owed:
    """A mail that somebody is to get about a job. `recipient` is "" when there is nobody: that is a failure."""

    job_id: int
    job_name: str
    run_id: int | None
    kind: Kind
    recipient: str
    text: Text
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """A mail that this sender has taken. `attempts` counts this one."""

    notice_id: int
    recipient: str
    text: Text
    created_at: datetime
    attempts: int


# --- Writing ----------------------------------------------------------------------------------------------------


def put(session: Session, settings: Settings, owed: Sequence[Owed], now: datetime) -> None:
    """Write mails down. Beyond `cron_mail_limit` an hour they are withheld, and a summary follows an hour later.

    What can never be sent is written as failed, for somebody may wonder why no mail came. Lock the jobs first, so that
    two who write about one of them do not count at once.
    """
    if not owed:
        return
    counted = _counted(session, {each.job_id for each in owed}, now) if settings.cron_mail_limit else {}
    rows = []
    for each in owed:
        count, storm = counted.get(each.job_id, (0, False))
        full = bool(settings.cron_mail_limit) and (storm or count >= settings.cron_mail_limit)
        # That a job does not run is said once until it runs again, however many mails it sent before.
        if full and each.kind != "overdue":
            counted[each.job_id] = count, storm or bool(each.recipient)
            rows.append(_row(each, now, WITHHELD, f"More than {settings.cron_mail_limit} mails an hour about this job"))
            if not storm and settings.smtp_host and each.recipient:
                rows.append(_summary(each, now))
            continue
        counted[each.job_id] = count + 1, storm
        trouble = NO_ADDRESS if not each.recipient else NO_SERVER if not settings.smtp_host else ""
        rows.append(_row(each, now, FAILED if trouble else PENDING, trouble))
    session.execute(insert(Notice), rows)
    if failed := sum(row["status"] == FAILED for row in rows):
        _count(session, FAILED, failed)


def _counted(session: Session, job_ids: Collection[int], now: datetime) -> dict[int, tuple[int, bool]]:
    """For each job, how many mails there were within the last hour, and whether a summary of others will follow."""
    query = (
        select(
            Notice.job_id,
            func.count(case((Notice.kind != SUMMARY, 1))),
            func.count(case((Notice.kind == SUMMARY, 1))),
        )
        .where(
            Notice.job_id.in_(job_ids),
            Notice.created_at > now - timedelta(hours=LIMIT_HOURS),
            Notice.status != WITHHELD,
        )
        .group_by(Notice.job_id)
    )
    return {job_id: (mails, summaries > 0) for job_id, mails, summaries in session.execute(query)}


def _row(owed: Owed, now: datetime, status: str, error: str = "") -> dict[str, Any]:
    return {
        "job_id": owed.job_id,
        "run_id": owed.run_id,
        "kind": owed.kind,
        "recipient": owed.recipient,
        "subject": owed.text.subject,
        "body": owed.text.body if status == PENDING else "",  # long, and nobody reads it any more
        "status": status,
        "error": error,
        "due_at": owed.due_at,
        "next_attempt_at": now if status == PENDING else None,
        "created_at": now,
        "finished_at": None if status == PENDING else now,
    }


def _summary(owed: Owed, now: datetime) -> dict[str, Any]:
    """The mail that ends a storm. What it says is known when it is sent."""
    due_at = now + timedelta(hours=LIMIT_HOURS)
    text = Text(mail.subject(owed.job_name, "mails were withheld"), "")
    summary = Owed(owed.job_id, owed.job_name, None, SUMMARY, owed.recipient, text, due_at)
    return _row(summary, now, PENDING) | {"next_attempt_at": due_at}


# --- Sending ----------------------------------------------------------------------------------------------------


def next_due() -> Select[datetime | None]:
    """When the next attempt is due."""
    return select(func.min(Notice.next_attempt_at)).where(IS_PENDING)


def claim(session: Session, now: datetime, zone: ZoneInfo) -> Taken | None:
    """Take the mail that has been due for longest. None: nothing is due. `zone` is the server's."""
    due = (
        select(Notice)
        .where(IS_PENDING, Notice.next_attempt_at <= now)
        .order_by(Notice.next_attempt_at, Notice.id)
        .limit(CANDIDATES)
        .with_for_update(skip_locked=True)
    )
    for notice in session.scalars(due):
        text = Text(notice.subject, notice.body)
        withheld = 0
        if notice.kind == SUMMARY and not notice.body:
            withheld, text = _summed_up(session, notice, zone)
        taken = session.execute(
            update(Notice)
            .where(
                Notice.id == notice.id,
                Notice.status == PENDING,
                Notice.next_attempt_at == notice.next_attempt_at,
            )
            .values(
                next_attempt_at=now + timedelta(seconds=LEASE_SECONDS),
                attempts=notice.attempts + 1,
                subject=text.subject,
                body=text.body,
            )
            .returning(Notice.id),
            execution_options={"synchronize_session": False},
        )
        if taken.first() is not None:
            if withheld:
                _count(session, WITHHELD, withheld)
            return Taken(notice.id, notice.recipient, text, notice.created_at, notice.attempts + 1)
    return None


def record(session: Session, taken: Taken, error: str, now: datetime, *, for_good: bool, jitter: float) -> str | None:
    """Write down what became of an attempt. Returns the mail's status now; None: another sender has it since.

    `error` is "" for a mail that was accepted; `for_good`: trying again is no use. `jitter` is a random number
    from 0 to 1.
    """
    again = None if not error or for_good else next_attempt(taken.attempts, now, jitter)
    status = SENT if not error else PENDING if again else FAILED
    ended: dict[str, Any] = {} if again else {"finished_at": now, "body": ""}
    written = session.execute(
        update(Notice)
        .where(Notice.id == taken.notice_id, Notice.status == PENDING, Notice.attempts == taken.attempts)
        .values(status=status, next_attempt_at=again, error=error[:300], **ended)
        .returning(Notice.id),
        execution_options={"synchronize_session": False},
    )
    if written.first() is None:
        return None
    _count(session, "retried" if again else status)
    return status


def next_attempt(attempts: int, now: datetime, jitter: float) -> datetime | None:
    """When to try again after so many attempts that failed. None: never."""
    if attempts > len(RETRY_SECONDS):
        return None
    return now + timedelta(seconds=RETRY_SECONDS[attempts - 1] * (1 + JITTER * jitter))


def prune(session: Session, now: datetime) -> int:
    """Remove some of the mails that ended long ago. Returns how many; at most PRUNED_AT_ONCE."""
    old = Notice.finished_at < now - timedelta(days=KEEP_DAYS)
    old_withheld = and_(Notice.finished_at < now - timedelta(days=KEEP_WITHHELD_DAYS), Notice.status == WITHHELD)
    some = select(Notice.id).where(or_(old, old_withheld)).limit(PRUNED_AT_ONCE)
    removed = session.scalars(
        delete(Notice).where(Notice.id.in_(some)).returning(Notice.id),
        execution_options={"synchronize_session": False},
    )
    return len(removed.all())


def _summed_up(session: Session, summary: Notice, zone: ZoneInfo) -> tuple[int, Text]:
    """How many mails a summary stands for, and what it says."""
    count = func.count()
    by_subject = (
        select(Notice.subject, count)
        .where(
            Notice.job_id == summary.job_id,
            Notice.status == WITHHELD,
            Notice.created_at >= summary.created_at,
            Notice.created_at < summary.due_at,
        )
        .group_by(Notice.subject)
        .order_by(count.desc(), Notice.subject)
    )
    counts = [(subject, number) for subject, number in session.execute(by_subject)]
    job = session.get_one(CronJob, summary.job_id)
    total = sum(number for _, number in counts)
    zone = zone_for(job.timezone, zone)
    return total, mail.about_withheld(job.name, counts[:SUBJECTS_IN_SUMMARY], total, summary.created_at, zone)


def _count(session: Session, status: str, amount: int = 1) -> None:
    add_to_stored(session, node_name(), {(_COUNTER, f'status="{status}"'): amount})


# --- Looking ----------------------------------------------------------------------------------------------------


def list_of_job(
    session: Session, visible_to: str | None, job_id: int, page: Page, *, status: str | None
) -> tuple[Chosen, int]:
    """A part of the mails about a job, newest first, and how many match in all. Raises NotFound.

    They are rows with what is shown of a mail, some at a time; they are read while the session lives.
    """
    job = service.get_job(session, visible_to, job_id)
    return _listed(session, select(Notice.id).where(Notice.job_id == job.id), page, status)


def list_of_owner(session: Session, visible_to: str | None, page: Page, *, status: str | None) -> tuple[Chosen, int]:
    """The same for the mails about all jobs that are visible."""
    query = select(Notice.id).join(CronJob, CronJob.id == Notice.job_id)
    if visible_to is not None:
        query = query.where(CronJob.owner == visible_to)
    if page.owner:
        query = query.where(CronJob.owner == page.owner)
    return _listed(session, query, page, status)


def _listed(session: Session, query: Select[int], page: Page, status: str | None) -> tuple[Chosen, int]:
    query = matching(query, page.search, [Notice.recipient, Notice.subject, Notice.error])
    if status is not None:
        query = query.where(Notice.status == status)
    found, total = fetch(session, query.order_by(Notice.created_at.desc(), Notice.id.desc()), page)
    return Chosen(session, _SHOWN, Notice.id, found), total
