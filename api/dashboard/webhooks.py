"""Webhook endpoints, their deliveries, and what can be done to both."""

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.dashboard import forms
from api.dashboard.new_job import Texts
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from core.errors import ModelpressError
from core.resources.webhook import EVENT_TYPES, WebhookCreate, WebhookWithSecret
from core.services import webhooks

router = APIRouter(route_class=PageRoute)

PAGE_SIZE = 50
PATTERNS = ("*", "job.*", "model.*", "dataset.*", *EVENT_TYPES)


@router.get("/webhooks")
def show_webhooks(view: Seen, after: str | None = None) -> Response:
    """The endpoints and the form that adds one."""
    view.need("webhooks")
    return list_page(view, after=after)


@router.post("/webhooks")
def add_webhook(view: Done, texts: Texts) -> Response:
    """Add an endpoint; its secret is on the page that answers, and only there."""
    view.need("webhooks")
    try:
        with view.session.begin_nested():
            asked = WebhookCreate(
                url=texts.get("url", "").strip(), events=(texts.get("events", "*"),), name=texts.get("name", "").strip()
            )
            made = webhooks.create(view.session, view.tenant, asked)
        return list_page(view, secret=made)
    except ValidationError as error:
        return list_page(view, texts=texts, error=forms.refusal(error, {}))
    except ModelpressError as error:
        return list_page(view, texts=texts, error=error)


@router.get("/webhooks/{webhook_id}")
def show_webhook(webhook_id: str, view: Seen, after: str | None = None) -> Response:
    """One endpoint with its deliveries, newest first."""
    view.need("webhooks")
    return webhook_page(view, webhook_id, after=after)


@router.post("/webhooks/{webhook_id}/test")
def send_test(webhook_id: str, view: Done) -> RedirectResponse:
    """Send a test event."""
    view.need("webhooks")
    webhooks.test(view.session, view.tenant, webhook_id)
    return see(f"/webhooks/{webhook_id}")


@router.post("/webhooks/{webhook_id}/rotate")
def rotate_secret(webhook_id: str, view: Done) -> Response:
    """Make a new secret; it is on the page that answers, and only there."""
    view.need("webhooks")
    made = webhooks.rotate(view.session, view.tenant, webhook_id)
    return webhook_page(view, webhook_id, secret=made)


@router.post("/webhooks/{webhook_id}/delete")
def delete_webhook(webhook_id: str, view: Done) -> RedirectResponse:
    """Delete an endpoint and its deliveries."""
    view.need("webhooks")
    webhooks.delete(view.session, view.tenant, webhook_id)
    return see("/webhooks")


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")
def redeliver(webhook_id: str, delivery_id: str, view: Done, job: Annotated[str, Form()] = "") -> RedirectResponse:
    """Send a delivery once more; `job` is the job whose page asked."""
    view.need("webhooks")
    webhooks.redeliver(view.session, view.tenant, webhook_id, delivery_id)
    return see(f"/jobs/{job}" if job.startswith("job_") and job.isidentifier() else f"/webhooks/{webhook_id}")


def list_page(
    view: View,
    *,
    after: str | None = None,
    secret: WebhookWithSecret | None = None,
    texts: Texts | None = None,
    error: ModelpressError | None = None,
) -> Response:
    """The endpoints, with a new secret or with what went wrong."""
    values = {
        "webhooks": webhooks.list_(view.session, view.tenant, limit=PAGE_SIZE, after=after),
        "after": after or "",
        "secret": secret,
        "texts": texts or {},
        "error": error,
        "patterns": PATTERNS,
    }
    return view.page("webhooks.html", values, status=422 if error else 200)


def webhook_page(
    view: View, webhook_id: str, *, after: str | None = None, secret: WebhookWithSecret | None = None
) -> Response:
    """One endpoint, with a new secret where there is one."""
    values = {
        "webhook": webhooks.get(view.session, view.tenant, webhook_id),
        "deliveries": webhooks.deliveries(view.session, view.tenant, webhook_id, limit=PAGE_SIZE, after=after),
        "secret": secret,
    }
    return view.page("webhook.html", values)
