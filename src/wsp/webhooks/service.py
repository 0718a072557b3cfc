"""Webhooks: what happens is written down for each that wants to know, in the transaction in which it happens."""

import json
import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.database import utc_now
from wsp.owners import ACTIVE, OWNERS
from wsp.webhooks.events import EVENTS, matches
from wsp.webhooks.models import Delivery, Webhook

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


def emit(session: Session, owner: str, event: str, data: dict[str, Any]) -> int:
    """Have the owner's webhooks told of an event, if the caller's transaction commits. Returns how many there are.

    `data` is what JSON can hold, without secrets. Costs one look at an index when nobody wants to know. Raises
    ValueError for an event that is not in `wsp.webhooks.events.EVENTS`.
    """
    if event not in EVENTS:
        raise ValueError(f"there is no event {event!r}")
    # Locked against removal until the commit: the deliveries refer to them.
    wanted = session.execute(
        select(Webhook.id, Webhook.events)
        .join(OWNERS, OWNERS.c.username == Webhook.owner)
        .where(Webhook.owner == owner, Webhook.enabled, OWNERS.c.status == ACTIVE)
        .with_for_update(read=True, key_share=True, of=Webhook)
    )
    webhooks = [row.id for row in wanted if any(matches(pattern, event) for pattern in row.events)]
    if webhooks:
        now = utc_now()
        event_id = secrets.token_hex(16)
        payload = compose(event_id, event, data, now)
        session.add_all(pending(webhook_id, event_id, event, payload, now) for webhook_id in webhooks)
        session.flush()
    return len(webhooks)


def compose(event_id: str, event: str, data: dict[str, Any], now: datetime) -> str:
    """The body that is sent, the same with every attempt. Its time is in UTC."""
    body = {"id": event_id, "event": event, "created_at": now.isoformat(timespec="seconds"), "data": data}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def pending(webhook_id: str, event_id: str, event: str, payload: str, now: datetime) -> Delivery:
    """A delivery that is due at once."""
    return Delivery(
        webhook_id=webhook_id,
        event_id=event_id,
        event=event,
        payload=payload,
        status=PENDING,
        next_attempt_at=now,
        created_at=now,
    )
