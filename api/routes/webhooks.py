"""`/v1/webhooks` and their deliveries."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.deps import Reading, WebhookUser, Writing
from api.idempotency import Idempotent
from api.queries import DeliveryPaging, Paging
from core.resources.model import Rename
from core.resources.shape import Page
from core.resources.webhook import Delivery, Webhook, WebhookCreate, WebhookWithSecret
from core.services import webhooks

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("", status_code=201, response_model=WebhookWithSecret)
def create_webhook(body: WebhookCreate, principal: WebhookUser, once: Idempotent) -> Response:
    """Make an endpoint; the secret is shown in this answer only."""
    return once.answer(
        lambda: webhooks.create(once.session, principal.tenant, body), status=201, location="/v1/webhooks/{id}"
    )


@router.get("")
def list_webhooks(query: Annotated[Paging, Query()], principal: WebhookUser, session: Reading) -> Page[Webhook]:
    """The endpoints, newest first."""
    return webhooks.list_(session, principal.tenant, limit=query.limit, after=query.after)


@router.get("/{webhook}")
def get_webhook(webhook: str, principal: WebhookUser, session: Reading) -> Webhook:
    """One endpoint."""
    return webhooks.get(session, principal.tenant, webhook)


@router.patch("/{webhook}")
def update_webhook(webhook: str, body: Rename, principal: WebhookUser, session: Writing) -> Webhook:
    """Change the name or the metadata."""
    return webhooks.rename(session, principal.tenant, webhook, body)


@router.delete("/{webhook}", status_code=204)
def delete_webhook(webhook: str, principal: WebhookUser, session: Writing) -> None:
    """Delete an endpoint with its deliveries."""
    webhooks.delete(session, principal.tenant, webhook)


@router.post("/{webhook}/rotate", status_code=200, response_model=WebhookWithSecret)
def rotate_webhook(webhook: str, principal: WebhookUser, once: Idempotent) -> Response:
    """Make a new secret, shown in this answer only; the old one signs too for 24 h."""
    return once.answer(lambda: webhooks.rotate(once.session, principal.tenant, webhook), status=200)


@router.post("/{webhook}/test", status_code=202, response_model=Delivery)
def send_test_event(webhook: str, principal: WebhookUser, once: Idempotent) -> Response:
    """Send a test event to one endpoint."""
    return once.answer(lambda: webhooks.test(once.session, principal.tenant, webhook), status=202)


@router.get("/{webhook}/deliveries")
def list_deliveries(
    webhook: str, query: Annotated[DeliveryPaging, Query()], principal: WebhookUser, session: Reading
) -> Page[Delivery]:
    """The deliveries of an endpoint, newest first, with every try."""
    return webhooks.deliveries(
        session, principal.tenant, webhook, limit=query.limit, after=query.after, state=query.state
    )


@router.post("/{webhook}/deliveries/{delivery}/redeliver", status_code=202, response_model=Delivery)
def redeliver(webhook: str, delivery: str, principal: WebhookUser, once: Idempotent) -> Response:
    """Send a delivery again."""
    return once.answer(lambda: webhooks.redeliver(once.session, principal.tenant, webhook, delivery), status=202)
