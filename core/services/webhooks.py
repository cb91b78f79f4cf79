"""Endpoints that are told what happens, and the log of what was sent to them."""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func
from sqlalchemy.orm import Session

from core.database.tables import DeliveryRow, EventRow, JobRow, WebhookRow
from core.errors import ModelpressError
from core.ids import new_id
from core.queue import enqueue
from core.resources.model import Rename
from core.resources.shape import Page
from core.resources.webhook import EVENT_TYPES, Delivery, DeliveryTry, Webhook, WebhookCreate, WebhookWithSecret
from core.services import events, inspected
from core.services.addresses import check_url, parse_networks
from core.services.pages import page
from core.services.tenancy import get_owned, owned
from core.settings import settings
from core.states import DeliveryState

OVERLAP = timedelta(hours=24)


def create(session: Session, tenant: str, asked: WebhookCreate) -> WebhookWithSecret:
    """A new endpoint, with the only sight of its secret; raises `invalid_webhook_url`."""
    check_url(asked.url, parse_networks(settings().webhook_allow))
    for position, pattern in enumerate(asked.events):
        if not any(events.matches([pattern], known) for known in EVENT_TYPES):
            raise ModelpressError("invalid_request", f"No event is named {pattern}.", pointer=f"/events/{position}")
    row = WebhookRow(
        id=new_id("whk"),
        tenant_id=tenant,
        name=asked.name,
        user_metadata=dict(asked.metadata),
        url=asked.url,
        events=list(asked.events),
        secret=_new_secret(),
    )
    session.add(row)
    session.flush()
    return _reveal(row)


def create_for_job(session: Session, job: JobRow, url: str) -> None:
    """An endpoint for the events of one job alone; raises `invalid_webhook_url`."""
    try:
        check_url(url, parse_networks(settings().webhook_allow))
    except ModelpressError as error:
        error.pointer = "/webhook_url"
        raise
    session.add(
        WebhookRow(
            id=new_id("whk"),
            tenant_id=job.tenant_id,
            name=job.name,
            user_metadata={},
            url=url,
            events=["job.*"],
            secret=_new_secret(),
            job_id=job.id,
        )
    )
    session.flush()


def get(session: Session, tenant: str, identifier: str) -> Webhook:
    """One endpoint; raises `not_found`."""
    return _show(get_owned(session, WebhookRow, tenant, identifier))


def list_(session: Session, tenant: str, *, limit: int = 50, after: str | None = None) -> Page[Webhook]:
    """Endpoints, newest first."""
    return page(session, owned(WebhookRow, tenant), WebhookRow, limit=limit, after=after, show=_show_all)


def rename(session: Session, tenant: str, identifier: str, asked: Rename) -> Webhook:
    """Changes name and metadata."""
    row = get_owned(session, WebhookRow, tenant, identifier, lock="update")
    if asked.name is not None:
        row.name = asked.name
    if asked.metadata is not None:
        row.user_metadata = inspected.merge(row.user_metadata, asked.metadata)
    session.flush()
    return _show(row)


def delete(session: Session, tenant: str, identifier: str) -> None:
    """Removes an endpoint with its log."""
    session.delete(get_owned(session, WebhookRow, tenant, identifier, lock="update"))
    session.flush()


def rotate(session: Session, tenant: str, identifier: str) -> WebhookWithSecret:
    """A new secret; for 24 hours deliveries are signed with the old one too."""
    row = get_owned(session, WebhookRow, tenant, identifier, lock="update")
    row.previous_secret, row.secret = row.secret, _new_secret()
    row.previous_secret_until = func.now() + OVERLAP
    session.flush()
    return _reveal(row)


def test(session: Session, tenant: str, identifier: str) -> Delivery:
    """Sends a `webhook.test` event, to a disabled endpoint too: if it is received, the endpoint is enabled again."""
    row = get_owned(session, WebhookRow, tenant, identifier)
    event = events.write(session, "webhook.test", row, state="test", summary={"name": row.name})
    delivery = events.deliver(session, event, row)
    enqueue(session, "deliver_webhook", event.id)
    session.flush()
    return _show_deliveries(session, [delivery])[0]


def deliveries(
    session: Session,
    tenant: str,
    identifier: str,
    *,
    limit: int = 50,
    after: str | None = None,
    state: DeliveryState | None = None,
) -> Page[Delivery]:
    """What was sent to an endpoint, newest first; raises `not_found`."""
    get_owned(session, WebhookRow, tenant, identifier)
    statement = owned(DeliveryRow, tenant).where(DeliveryRow.webhook_id == identifier)
    if state is not None:
        statement = statement.where(DeliveryRow.state == state)
    return page(
        session,
        statement,
        DeliveryRow,
        limit=limit,
        after=after,
        show=lambda rows: _show_deliveries(session, rows),
    )


def deliveries_about(session: Session, tenant: str, subject: str, *, limit: int = 50) -> Sequence[Delivery]:
    """What was sent about one object, to any endpoint, newest first."""
    about = owned(EventRow, tenant).where(EventRow.subject_id == subject).with_only_columns(EventRow.id)
    statement = owned(DeliveryRow, tenant).where(DeliveryRow.event_id.in_(about))
    rows = session.scalars(statement.order_by(DeliveryRow.id.desc()).limit(limit)).all()
    return _show_deliveries(session, rows)


def redeliver(session: Session, tenant: str, webhook: str, delivery: str) -> Delivery:
    """Sends the same bytes under the same id once more, now; raises `not_found`."""
    row = get_owned(session, DeliveryRow, tenant, delivery, lock="update")
    if row.webhook_id != webhook:
        raise ModelpressError("not_found", f"There is no object {delivery[:60]!r} of this endpoint.")
    row.state = DeliveryState.PENDING
    row.next_attempt_at = func.now()
    enqueue(session, "deliver_webhook", row.event_id)
    session.flush()
    return _show_deliveries(session, [row])[0]


def _new_secret() -> str:
    """A secret in the form of Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _show(row: WebhookRow) -> Webhook:
    return Webhook(
        id=row.id,
        created_at=row.created_at,
        name=row.name,
        metadata=row.user_metadata,
        url=row.url,
        events=tuple(row.events),
        job=row.job_id,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
    )


def _show_all(rows: Sequence[WebhookRow]) -> list[Webhook]:
    return [_show(row) for row in rows]


def _reveal(row: WebhookRow) -> WebhookWithSecret:
    return WebhookWithSecret(**dict(_show(row)), secret=row.secret)


def _show_deliveries(session: Session, rows: Sequence[DeliveryRow]) -> list[Delivery]:
    if not rows:
        return []
    statement = owned(EventRow, rows[0].tenant_id).where(EventRow.id.in_({row.event_id for row in rows}))
    told = {event.id: event for event in session.scalars(statement)}
    return [
        Delivery(
            id=row.id,
            created_at=row.created_at,
            webhook=row.webhook_id,
            event=row.event_id,
            type=told[row.event_id].type,
            subject=told[row.event_id].subject_id,
            state=DeliveryState(row.state),
            body=row.body,
            tries=tuple(DeliveryTry.model_validate(entry) for entry in row.tries),
            next_attempt_at=row.next_attempt_at,
            delivered_at=row.delivered_at,
        )
        for row in rows
    ]
