"""What the API takes and says of webhooks."""

import json
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from wsp.rest.answers import Total
from wsp.rest.bodies import ChangeBody, RequestBody, left_out
from wsp.rest.fields import Owner, Timestamp, one_line, rfc3339
from wsp.webhooks.events import EVENTS, known
from wsp.webhooks.models import Delivery, Webhook
from wsp.webhooks.targets import parse_url

MAX_PATTERNS = 50

Status = Literal["pending", "delivered", "failed"]


def _url(value: str) -> str:
    parse_url(value)
    return value


def _pattern(value: str) -> str:
    if not known(value):
        raise ValueError(f"names no event; there are {', '.join(EVENTS)}, and patterns as upload.* and *")
    return value


Url = Annotated[
    str,
    Field(
        title="URL",
        min_length=1,
        max_length=2000,
        description="http or https; redirects are not followed",
        examples=["https://example.com/hooks/wsp"],
    ),
    AfterValidator(_url),
]
Events = Annotated[
    list[Annotated[str, Field(max_length=64), AfterValidator(_pattern)]],
    Field(
        title="Events",
        min_length=1,
        max_length=MAX_PATTERNS,
        description="Names or patterns (`*` is any text). "
        + " ".join(f"`{event}`: {meaning}." for event, meaning in EVENTS.items()),
        examples=[["upload.*", "login.failed"]],
    ),
    AfterValidator(lambda patterns: list(dict.fromkeys(patterns))),
]
Enabled = Annotated[bool, Field(title="Enabled", description="Is it told of new events?")]
Description = Annotated[
    str, Field(title="Description", max_length=200, examples=["Purges the CDN"]), AfterValidator(one_line)
]


class WebhookCreate(RequestBody):
    """A new webhook."""

    url: Url
    events: Events
    enabled: Enabled = True
    description: Description = ""
    owner: Owner = left_out()


class WebhookChange(ChangeBody):
    """Changes to a webhook. They are true for every attempt from now on."""

    url: Url = left_out()
    events: Events = left_out()
    enabled: Enabled = left_out()
    description: Description = left_out()


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    id: Annotated[str, Field(examples=["7c1f0d9e5b3a2846"])]
    owner: Annotated[str, Field(examples=["admin"])]
    url: Annotated[str, Field(examples=["https://example.com/hooks/wsp"])]
    events: Annotated[list[str], Field(examples=[["upload.*"]])]
    enabled: bool
    description: Annotated[str, Field(examples=["The shop's build server"])]
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, webhook: Webhook, zone: ZoneInfo) -> Self:
        """A webhook as answers show it."""
        return cls(**cls._shown(webhook, zone))

    @staticmethod
    def _shown(webhook: Webhook, zone: ZoneInfo) -> dict[str, Any]:
        return {
            "id": webhook.id,
            "owner": webhook.owner,
            "url": webhook.url,
            "events": webhook.events,
            "enabled": webhook.enabled,
            "description": webhook.description,
            "created_at": rfc3339(webhook.created_at, zone),
            "updated_at": rfc3339(webhook.updated_at, zone),
        }


class WebhookWithSecret(WebhookOut):
    """A webhook with the secret that its deliveries are signed with, which is shown this once."""

    secret: Annotated[str, Field(examples=["whsec_5d1c04f7aa9b1d0e3c2f4a5b6978877665544332f0e1d2c3"])]

    @classmethod
    def of(cls, webhook: Webhook, zone: ZoneInfo) -> Self:
        """A webhook as the answer to its creation shows it."""
        return cls(**cls._shown(webhook, zone), secret=webhook.secret)


class WebhookList(BaseModel):
    """Webhooks, oldest first."""

    webhooks: list[WebhookOut]
    total: Total


_EVENT_ID = "b882803193e1b258d15c4d8b5a005733"
_PAYLOAD = {"id": _EVENT_ID, "event": "upload.completed", "created_at": "2026-05-18T10:44:36+00:00", "data": {}}


class DeliveryOut(BaseModel):
    """An event on its way to a webhook, or what became of it."""

    id: Annotated[int, Field(description="The value of `X-Wsp-Delivery`", examples=[17])]
    event: Annotated[str, Field(examples=["upload.completed"])]
    event_id: Annotated[str, Field(description="The same in every delivery of the event", examples=[_EVENT_ID])]
    status: Annotated[Status, Field(description="`failed` is not tried again", examples=["delivered"])]
    attempts: Annotated[int, Field(examples=[1])]
    response_status: Annotated[int | None, Field(description="HTTP status of the last answer", examples=[200])]
    error: Annotated[str, Field(description="What went wrong last", examples=[""])]
    created_at: Timestamp
    next_attempt_at: Timestamp | None
    finished_at: Timestamp | None
    payload: Annotated[dict[str, Any], Field(description="The body that is sent", examples=[_PAYLOAD])]

    @classmethod
    def of(cls, delivery: Delivery, zone: ZoneInfo) -> Self:
        """A delivery as answers show it."""
        return cls(
            id=delivery.id,
            event=delivery.event,
            event_id=delivery.event_id,
            status=delivery.status,
            attempts=delivery.attempts,
            response_status=delivery.response_status,
            error=delivery.error,
            created_at=rfc3339(delivery.created_at, zone),
            next_attempt_at=rfc3339(delivery.next_attempt_at, zone) if delivery.next_attempt_at else None,
            finished_at=rfc3339(delivery.finished_at, zone) if delivery.finished_at else None,
            payload=json.loads(delivery.payload),
        )


class DeliveryList(BaseModel):
    """Deliveries of a webhook, newest first."""

    deliveries: list[DeliveryOut]
    total: Total
