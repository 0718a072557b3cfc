"""`/api/v1/webhooks`."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator

from wsp.auth.dependencies import Principal, caller
from wsp.errors import Invalid
from wsp.rest.answers import Message, failures
from wsp.rest.fields import one_line
from wsp.rest.lists import (
    LIST_HEADERS,
    OWNED_PAGE_PARAMETERS,
    SHORT_PAGE_PARAMETERS,
    OwnedPageQuery,
    ShortPageQuery,
    page_headers,
)
from wsp.rest.routing import API_BASE, Router
from wsp.rest.session import Reader, Writer, Zone
from wsp.rest.state import get_state
from wsp.webhooks import service
from wsp.webhooks.schemas import (
    DeliveryList,
    DeliveryOut,
    Status,
    WebhookChange,
    WebhookCreate,
    WebhookList,
    WebhookOut,
    WebhookWithSecret,
)
from wsp.webhooks.targets import parse_url, refuse_private

router = Router(prefix=f"{API_BASE}/webhooks", tags=["Webhooks"], responses=failures())

MAX_ID = 2**63 - 1


async def _allow_private(request: Request) -> bool:
    return get_state(request).settings.webhook_allow_private


Caller = Annotated[Principal, caller("webhooks")]
AllowPrivate = Annotated[bool, Depends(_allow_private)]
WebhookId = Annotated[
    str, Path(description="The webhook's id", examples=["7c1f0d9e5b3a2846"]), AfterValidator(one_line)
]
DeliveryId = Annotated[int, Path(description="The delivery's id", examples=[17], ge=1, le=MAX_ID)]


@router.get(
    "/",
    operation_id="listWebhooks",
    summary="List webhooks",
    openapi_extra=OWNED_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}},
)
def list_webhooks(
    caller: Caller, session: Reader, zone: Zone, page: OwnedPageQuery, request: Request, response: Response
) -> WebhookList:
    """Every webhook of the caller, oldest first; of every owner for admins."""
    webhooks, total = service.list_webhooks(session, caller.sees_owner, page)
    response.headers.update(page_headers(request, page, total))
    return WebhookList(webhooks=[WebhookOut.of(webhook, zone) for webhook in webhooks], total=total)


@router.post("/", status_code=201, operation_id="createWebhook", summary="Create a webhook", responses=failures(409))
def create_webhook(
    body: WebhookCreate, caller: Caller, session: Writer, zone: Zone, allow_private: AllowPrivate
) -> WebhookWithSecret:
    """Told of the owner's events from now on. The answer holds the secret, this once."""
    _check_target(body.url, allow_private=allow_private)
    owner = caller.owner_for(body.owner)
    webhook = service.create_webhook(session, owner=owner, **body.model_dump(exclude={"owner"}))
    return WebhookWithSecret.of(webhook, zone)


@router.get("/{id}", operation_id="getWebhook", summary="Show a webhook", responses=failures(404))
def get_webhook(id: WebhookId, caller: Caller, session: Reader, zone: Zone) -> WebhookOut:
    """One webhook."""
    return WebhookOut.of(service.get_webhook(session, caller.sees_owner, id), zone)


@router.put("/{id}", operation_id="changeWebhook", summary="Change a webhook", responses=failures(404))
def change_webhook(
    id: WebhookId, body: WebhookChange, caller: Caller, session: Writer, zone: Zone, allow_private: AllowPrivate
) -> WebhookOut:
    """Changes what the body names, and nothing else."""
    changes = body.named()
    if "url" in changes:
        _check_target(body.url, allow_private=allow_private)
    return WebhookOut.of(service.change_webhook(session, caller.sees_owner, id, changes), zone)


@router.post(
    "/{id}/rotate-secret",
    operation_id="rotateWebhookSecret",
    summary="Give a webhook a new secret",
    responses=failures(404, 409),
)
def rotate_secret(id: WebhookId, caller: Caller, session: Writer, zone: Zone) -> WebhookWithSecret:
    """The old secret signs nothing any more. The answer holds the new one, this once."""
    return WebhookWithSecret.of(service.rotate_secret(session, caller.sees_owner, id), zone)


@router.delete("/{id}", operation_id="deleteWebhook", summary="Delete a webhook", responses=failures(404))
def delete_webhook(id: WebhookId, caller: Caller, session: Writer) -> Message:
    """What waits to be delivered is dropped, and the log of deliveries with it."""
    service.delete_webhook(session, caller.sees_owner, id)
    return Message(message="Webhook deleted successfully")


@router.get(
    "/{id}/deliveries",
    operation_id="listWebhookDeliveries",
    summary="Show the deliveries of a webhook",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404)},
)
def list_deliveries(
    id: WebhookId,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
    status: Annotated[Status | None, Query(description="Only those with this status")] = None,
) -> DeliveryList:
    """What was delivered, failed or waits, newest first, with what was sent."""
    deliveries, total = service.list_deliveries(session, caller.sees_owner, id, page, status=status)
    response.headers.update(page_headers(request, page, total))
    return DeliveryList(deliveries=[DeliveryOut.of(delivery, zone) for delivery in deliveries], total=total)


@router.post(
    "/{id}/test",
    status_code=202,
    operation_id="testWebhook",
    summary="Send a test event to a webhook",
    responses=failures(404, 409),
)
def send_test(id: WebhookId, caller: Caller, session: Writer, zone: Zone) -> DeliveryOut:
    """A `ping` is sent shortly, also to a disabled webhook. What became of it is in the deliveries."""
    return DeliveryOut.of(service.send_test(session, caller.sees_owner, id), zone)


@router.post(
    "/{id}/deliveries/{delivery}/redeliver",
    status_code=202,
    operation_id="redeliverWebhook",
    summary="Deliver an event again",
    responses=failures(404, 409),
)
def redeliver(id: WebhookId, delivery: DeliveryId, caller: Caller, session: Writer, zone: Zone) -> DeliveryOut:
    """A new delivery of the same event; one that waits for its next attempt is tried at once instead."""
    return DeliveryOut.of(service.redeliver(session, caller.sees_owner, id, delivery), zone)


def _check_target(url: str, *, allow_private: bool) -> None:
    """Say at once what every attempt would say. A name is looked up with each attempt, not here."""
    if allow_private:
        return
    try:
        refuse_private(parse_url(url))
    except ValueError as error:
        raise Invalid(f"URL {error}", field="url") from None
