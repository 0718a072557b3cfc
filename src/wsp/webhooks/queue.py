"""Deliveries that wait: which is due, who takes it, and what became of it.

Any number of senders share the table. One takes a delivery by pushing its next attempt into the future, in an update
that only one of them can make. When a sender dies, that moment comes, and another one takes it: a delivery may
arrive twice, never not at all.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import Session

from wsp.owners import ACTIVE, OWNERS
from wsp.webhooks.events import PING
from wsp.webhooks.models import Delivery, Webhook
from wsp.webhooks.service import DELIVERED, FAILED, PENDING

RETRY_SECONDS = (10, 60, 300, 1800, 7200, 21600)
JITTER = 0.2  # of each pause: what failed together is not tried again together
LEASE_SECONDS = 30  # longer than an attempt takes
CANDIDATES = 8
PRUNED_AT_ONCE = 1000
MAX_PENDING = 10_000  # of one webhook: a target that is gone for good must not fill the store


@dataclass(frozen=True, slots=True)
class Job:
    """A delivery that this sender has taken. `attempts` counts this one; `stopped` says why it must not be sent."""

    delivery_id: int
    webhook_id: str
    url: str
    secret: str
    event: str
    payload: str
    attempts: int
    stopped: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: the status of the answer, if there was one, and what went wrong, if anything did."""

    response_status: int | None
    error: str = ""


def earliest(session: Session, full: Collection[str]) -> datetime | None:
    """When the next attempt is due, leaving out the webhooks in `full`. None: nothing waits."""
    return session.scalar(select(func.min(Delivery.next_attempt_at)).where(_waiting(full)))


def claim(session: Session, now: datetime, full: Collection[str]) -> Job | None:
    """Take the delivery that has been due for longest, leaving out the webhooks in `full`. None: nothing is due."""
    due = (
        select(Delivery, Webhook, OWNERS.c.status)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .join(OWNERS, OWNERS.c.username == Webhook.owner)
        .where(_waiting(full), Delivery.next_attempt_at <= now)
        .order_by(Delivery.next_attempt_at, Delivery.id)
        .limit(CANDIDATES)
        .with_for_update(skip_locked=True, of=Delivery)
    )
    for delivery, webhook, owner_status in session.execute(due):
        taken = session.execute(
            update(Delivery)
            .where(
                Delivery.id == delivery.id,
                Delivery.status == PENDING,
                Delivery.next_attempt_at == delivery.next_attempt_at,
            )
            .values(next_attempt_at=now + timedelta(seconds=LEASE_SECONDS), attempts=delivery.attempts + 1)
            .returning(Delivery.id),
            execution_options={"synchronize_session": False},
        )
        if taken.first() is not None:
            return Job(
                delivery_id=delivery.id,
                webhook_id=webhook.id,
                url=webhook.url,
                secret=webhook.secret,
                event=delivery.event,
                payload=delivery.payload,
                attempts=delivery.attempts + 1,
                stopped=_stopped(webhook, delivery, owner_status),
            )
    return None


def record(session: Session, job: Job, outcome: Outcome, now: datetime, *, jitter: float) -> None:
    """Write down what became of an attempt. `jitter` is a random number from 0 to 1.

    Nothing is written when another sender has taken the delivery since: then it is theirs.
    """
    again = None if not outcome.error or job.stopped else next_attempt(job.attempts, now, jitter)
    status = DELIVERED if not outcome.error else PENDING if again else FAILED
    session.execute(
        update(Delivery)
        .where(Delivery.id == job.delivery_id, Delivery.status == PENDING, Delivery.attempts == job.attempts)
        .values(
            status=status,
            next_attempt_at=again,
            response_status=outcome.response_status,
            error=outcome.error[:300],
            finished_at=None if again else now,
        ),
        execution_options={"synchronize_session": False},
    )


def next_attempt(attempts: int, now: datetime, jitter: float) -> datetime | None:
    """When to try again after so many attempts that failed. None: never."""
    if attempts > len(RETRY_SECONDS):
        return None
    return now + timedelta(seconds=RETRY_SECONDS[attempts - 1] * (1 + JITTER * jitter))


def prune(session: Session, before: datetime) -> int:
    """Remove some of the deliveries that ended before an instant. Returns how many; at most PRUNED_AT_ONCE."""
    old = select(Delivery.id).where(Delivery.finished_at < before).limit(PRUNED_AT_ONCE)
    removed = session.scalars(
        delete(Delivery).where(Delivery.id.in_(old)).returning(Delivery.id),
        execution_options={"synchronize_session": False},
    )
    return len(removed.all())


def cap(session: Session, now: datetime) -> int:
    """Give up the oldest deliveries of each webhook for which more than MAX_PENDING wait. Returns how many."""
    over = (
        select(Delivery.webhook_id, func.count() - MAX_PENDING)
        .where(_waiting(()))
        .group_by(Delivery.webhook_id)
        .having(func.count() > MAX_PENDING)
    )
    given_up = 0
    for webhook_id, excess in session.execute(over).all():
        oldest = (
            select(Delivery.id)
            .where(_waiting(()), Delivery.webhook_id == webhook_id)
            .order_by(Delivery.id)
            .limit(excess)
            .with_for_update(skip_locked=True)
        )
        ended = session.scalars(
            update(Delivery)
            .where(Delivery.id.in_(session.scalars(oldest).all()))
            .values(
                status=FAILED,
                next_attempt_at=None,
                finished_at=now,
                error=f"Given up: more than {MAX_PENDING} deliveries of this webhook waited",
            )
            .returning(Delivery.id),
            execution_options={"synchronize_session": False},
        )
        given_up += len(ended.all())
    return given_up


def _waiting(full: Collection[str]) -> ColumnElement[bool]:
    # The column is set while a delivery is pending, and only then; its index leads to those few among many.
    waiting = and_(Delivery.status == PENDING, Delivery.next_attempt_at.is_not(None))
    return and_(waiting, Delivery.webhook_id.not_in(full)) if full else waiting


def _stopped(webhook: Webhook, delivery: Delivery, owner_status: str) -> str:
    if owner_status != ACTIVE:
        return "its owner is disabled"
    return "" if webhook.enabled or delivery.event == PING else "the webhook is disabled"
