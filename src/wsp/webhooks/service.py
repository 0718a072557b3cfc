"""Webhooks: what happens is written down for each that wants to know, in the transaction in which it happens."""

import json
import secrets
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, select
from sqlalchemy.orm import Session

from wsp.database import utc_now
from wsp.errors import Conflict, NotFound
from wsp.owners import ACTIVE, OWNERS, require_owner
from wsp.paging import Page, fetch, matching
from wsp.webhooks.events import EVENTS, PING, matches
from wsp.webhooks.models import Delivery, Webhook
from wsp.webhooks.signature import new_secret

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
MAX_WEBHOOKS = 100  # of one owner: each has its share of the sender


# Built once: it runs with every event. Locked against removal until the commit: the deliveries refer to them.
_OF_OWNERS = (
    select(Webhook.owner, Webhook.id, Webhook.events)
    .join(OWNERS, OWNERS.c.username == Webhook.owner)
    .where(Webhook.owner.in_(bindparam("owners", expanding=True)), Webhook.enabled, OWNERS.c.status == ACTIVE)
    .with_for_update(read=True, key_share=True, of=Webhook)
)


# --- Events -----------------------------------------------------------------------------------------------------


def emit(session: Session, owner: str, event: str, data: dict[str, Any]) -> int:
    """Have the owner's webhooks told of an event, if the caller's transaction commits. Returns how many there are.

    `data` is what JSON can hold, without secrets. A commit that is announced has it sent at once, any other one within
    seconds. Costs one look at an index when nobody wants to know. Raises
    ValueError for an event that is not in `wsp.webhooks.events.EVENTS`.
    """
    listeners = Listeners(session, (owner,))
    listeners.tell(owner, event, lambda: data)
    return listeners.write()


class Listeners:
    """The webhooks of some owners, looked up once for any number of their events.

    As with `emit`, the caller's transaction decides whether they are told.
    """

    def __init__(self, session: Session, owners: Collection[str]) -> None:
        self._session = session
        self._webhooks: dict[str, list[tuple[str, list[str]]]] = {}
        if owners:
            for owner, webhook_id, patterns in session.execute(_OF_OWNERS, {"owners": list(owners)}):
                self._webhooks.setdefault(owner, []).append((webhook_id, patterns))
        self._deliveries: list[dict[str, Any]] = []

    def tell(self, owner: str, event: str, data: Callable[[], dict[str, Any]]) -> None:
        """Have an owner's webhooks told of an event, once `write` was called. `data` is asked if anybody wants it.

        Raises ValueError for an event that there is not.
        """
        if event not in EVENTS:
            raise ValueError(f"there is no event {event!r}")
        webhooks = [
            webhook_id
            for webhook_id, patterns in self._webhooks.get(owner, ())
            if any(matches(pattern, event) for pattern in patterns)
        ]
        if not webhooks:
            return
        now = utc_now()
        event_id = secrets.token_hex(16)
        payload = _compose(event_id, event, data(), now)
        self._deliveries += (_pending(webhook_id, event_id, event, payload, now) for webhook_id in webhooks)

    def write(self) -> int:
        """Write down what was told. Returns how many deliveries that makes."""
        written, self._deliveries = self._deliveries, []
        if written:
            self._session.execute(insert(Delivery), written)
        return len(written)


def _compose(event_id: str, event: str, data: dict[str, Any], now: datetime) -> str:
    """The body that is sent, the same with every attempt. Its time is in UTC."""
    body = {"id": event_id, "event": event, "created_at": now.isoformat(timespec="seconds"), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _pending(webhook_id: str, event_id: str, event: str, payload: str, now: datetime) -> dict[str, Any]:
    """The columns of a delivery that is due at once."""
    return {
        "webhook_id": webhook_id,
        "event_id": event_id,
        "event": event,
        "payload": payload,
        "status": PENDING,
        "next_attempt_at": now,
        "created_at": now,
    }


# --- Webhooks ---------------------------------------------------------------------------------------------------


def create_webhook(
    session: Session, *, owner: str, url: str, events: list[str], enabled: bool, description: str
) -> Webhook:
    """Add a webhook, with a new secret.

    Raises Invalid when there is no such owner, Conflict when they have as many as they may.
    """
    require_owner(session, owner)
    theirs = select(func.count()).select_from(Webhook).where(Webhook.owner == owner)
    if (session.scalar(theirs) or 0) >= MAX_WEBHOOKS:
        raise Conflict(f"An owner may have {MAX_WEBHOOKS} webhooks at most")
    now = utc_now()
    webhook = Webhook(
        id=secrets.token_hex(8),
        owner=owner,
        url=url,
        events=events,
        enabled=enabled,
        description=description,
        secret=new_secret(),
        created_at=now,
        updated_at=now,
    )
    session.add(webhook)
    session.flush()
    return webhook


def list_webhooks(session: Session, visible_to: str | None, page: Page) -> tuple[list[Webhook], int]:
    """A part of the webhooks, oldest first, and how many match in all."""
    query = matching(_visible(visible_to), page.search, [Webhook.url, Webhook.description])
    if page.owner:
        query = query.where(Webhook.owner == page.owner)
    return fetch(session, query.order_by(Webhook.created_at, Webhook.id), page)


def get_webhook(session: Session, visible_to: str | None, webhook_id: str, *, change: bool = False) -> Webhook:
    """One webhook; with `change`, locked until the commit. Raises NotFound."""
    query = _visible(visible_to).where(Webhook.id == webhook_id)
    webhook = session.scalar(query.with_for_update() if change else query)
    if webhook is None:
        raise NotFound("Webhook not found")
    return webhook


def change_webhook(session: Session, visible_to: str | None, webhook_id: str, changes: dict[str, Any]) -> Webhook:
    """Set the named columns, if there are any."""
    webhook = get_webhook(session, visible_to, webhook_id, change=True)
    if changes:
        for name, value in changes.items():
            setattr(webhook, name, value)
        webhook.updated_at = utc_now()
        session.flush()
    return webhook


def rotate_secret(session: Session, visible_to: str | None, webhook_id: str) -> Webhook:
    """Give the webhook a new secret. Attempts from now on are signed with it, those of older events too."""
    return change_webhook(session, visible_to, webhook_id, {"secret": new_secret()})


def delete_webhook(session: Session, visible_to: str | None, webhook_id: str) -> None:
    """Remove the webhook and its deliveries, also those that were not sent yet."""
    session.delete(get_webhook(session, visible_to, webhook_id, change=True))
    session.flush()


def _visible(visible_to: str | None) -> Select[Webhook]:
    query = select(Webhook)
    return query if visible_to is None else query.where(Webhook.owner == visible_to)


# --- Deliveries -------------------------------------------------------------------------------------------------


def list_deliveries(
    session: Session, visible_to: str | None, webhook_id: str, page: Page, *, status: str | None = None
) -> tuple[list[Delivery], int]:
    """A part of a webhook's deliveries, newest first, and how many match in all."""
    query = select(Delivery).where(Delivery.webhook_id == get_webhook(session, visible_to, webhook_id).id)
    query = matching(query, page.search, [Delivery.event, Delivery.payload, Delivery.error])
    if status is not None:
        query = query.where(Delivery.status == status)
    return fetch(session, query.order_by(Delivery.id.desc()), page)


def send_test(session: Session, visible_to: str | None, webhook_id: str) -> Delivery:
    """Have a `ping` sent, whatever events the webhook wants, and also while it is disabled."""
    webhook, now = get_webhook(session, visible_to, webhook_id, change=True), utc_now()
    event_id = secrets.token_hex(16)
    payload = _compose(event_id, PING, {"webhook_id": webhook.id}, now)
    return _add(session, Delivery(**_pending(webhook.id, event_id, PING, payload, now)))


def redeliver(session: Session, visible_to: str | None, webhook_id: str, number: int) -> Delivery:
    """Send an event once more: as a new delivery of the same event, or at once if it is still to be tried again."""
    webhook, now = get_webhook(session, visible_to, webhook_id, change=True), utc_now()
    delivery = session.scalar(
        select(Delivery).where(Delivery.webhook_id == webhook.id, Delivery.id == number).with_for_update()
    )
    if delivery is None:
        raise NotFound("Delivery not found")
    if delivery.status == PENDING:
        delivery.next_attempt_at = now
        session.flush()
        return delivery
    return _add(session, Delivery(**_pending(webhook.id, delivery.event_id, delivery.event, delivery.payload, now)))


def _add(session: Session, delivery: Delivery) -> Delivery:
    session.add(delivery)
    session.flush()
    return delivery
