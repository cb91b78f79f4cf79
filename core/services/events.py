"""What happened, and to whom it is told."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, DeliveryRow, EventRow, JobRow, ModelRow, WebhookRow
from core.ids import new_id
from core.queue import enqueue
from core.resources.shape import Page
from core.resources.webhook import Event
from core.services.pages import page
from core.services.tenancy import owned
from core.settings import settings
from core.states import DeliveryState

Subject = ModelRow | DatasetRow | JobRow | WebhookRow
_OBJECTS: dict[type[Subject], str] = {
    ModelRow: "model",
    DatasetRow: "dataset",
    JobRow: "job",
    WebhookRow: "webhook",
}


def emit(session: Session, event_type: str, subject: Subject, *, state: str, summary: dict[str, Any]) -> None:
    """Writes down what happened to `subject` and a delivery for each endpoint that asked for it."""
    event = write(session, event_type, subject, state=state, summary=summary)
    statement = owned(WebhookRow, subject.tenant_id).where(
        WebhookRow.disabled_at.is_(None), or_(WebhookRow.job_id.is_(None), WebhookRow.job_id == subject.id)
    )
    # An endpoint that is deleted at this moment must not make the subject's own transaction fail.
    endpoints = session.scalars(statement.with_for_update(read=True, key_share=True)).all()
    chosen = [endpoint for endpoint in endpoints if matches(endpoint.events, event_type)]
    for endpoint in chosen:
        deliver(session, event, endpoint)
    if chosen:
        enqueue(session, "deliver_webhook", event.id)


def write(session: Session, event_type: str, subject: Subject, *, state: str, summary: dict[str, Any]) -> EventRow:
    """Writes down what happened to `subject`, and tells nobody."""
    kind = _OBJECTS[type(subject)]
    url = f"{settings().public_url.rstrip('/')}/v1/{kind}s/{subject.id}"
    event = EventRow(
        id=new_id("evt"),
        tenant_id=subject.tenant_id,
        type=event_type,
        subject_id=subject.id,
        data={"id": subject.id, "object": kind, "state": state, "url": url, "summary": summary},
    )
    session.add(event)
    session.flush()
    return event


def deliver(session: Session, event: EventRow, endpoint: WebhookRow) -> DeliveryRow:
    """Puts an event on its way to one endpoint; the body is fixed here, since it is what is signed."""
    body = json.dumps(
        {"type": event.type, "timestamp": timestamp(event.created_at), "data": event.data},
        separators=(",", ":"),
        ensure_ascii=False,
    )
    delivery = DeliveryRow(
        id=new_id("dlv"),
        tenant_id=event.tenant_id,
        webhook_id=endpoint.id,
        event_id=event.id,
        body=body,
        state=DeliveryState.PENDING,
        tries=[],
        next_attempt_at=func.now(),
    )
    session.add(delivery)
    session.flush()
    return delivery


def list_(
    session: Session, tenant: str, *, limit: int = 50, after: str | None = None, subject: str | None = None
) -> Page[Event]:
    """What happened, newest first; `subject` keeps to one object."""
    statement = owned(EventRow, tenant)
    if subject is not None:
        statement = statement.where(EventRow.subject_id == subject)
    return page(session, statement, EventRow, limit=limit, after=after, show=_show)


def matches(patterns: Sequence[str], event_type: str) -> bool:
    """Whether one of the patterns (`*`, `job.*`, `job.failed`) names the type."""
    return any(pattern in ("*", event_type, f"{event_type.partition('.')[0]}.*") for pattern in patterns)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC; the database answers in UTC."""
    return moment.isoformat().replace("+00:00", "Z")


def _show(rows: Sequence[EventRow]) -> list[Event]:
    return [
        Event(id=row.id, created_at=row.created_at, type=row.type, timestamp=row.created_at, data=row.data)
        for row in rows
    ]
