"""Deliveries of webhooks on behalf of workers: what is due, and what came of it (Standard Webhooks 1.0.0)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from core.database.tables import DeliveryRow, WebhookRow
from core.resources.webhook import DeliveryTry
from core.settings import settings
from core.states import DeliveryState

CLAIM_SECONDS = 60
JITTER = 0.2
GIVE_UP_AFTER = timedelta(days=5)
MAX_RETRY_AFTER_SECONDS = 86_400
ANSWER_LENGTH = 1024
_GONE = 410


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """One try that is to be made now; every secret signs it."""

    id: str
    webhook: str
    url: str
    body: str
    secrets: tuple[str, ...]
    event: str
    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or an error; `retry_after` is in seconds."""

    status: int | None
    answer: str
    error: str | None
    milliseconds: float
    retry_after: float | None = None

    @property
    def received(self) -> bool:
        """Whether the receiver took it: any 2xx."""
        return self.status is not None and 200 <= self.status < 300


def claim_due(session: Session, limit: int = 10) -> list[DueDelivery]:
    """Deliveries whose time has come, those of endpoints that work first; they are ours for a minute."""
    statement = (
        select(DeliveryRow, WebhookRow)
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .where(*due())
        .order_by(WebhookRow.failing_since.is_not(None), DeliveryRow.next_attempt_at, DeliveryRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=DeliveryRow)
    )
    claimed = []
    now = session.scalar(select(func.now()))
    for delivery, webhook in session.execute(statement).all():
        delivery.claimed_until = func.now() + timedelta(seconds=CLAIM_SECONDS)
        claimed.append(_due(delivery, webhook, now))
    session.flush()
    return claimed


def due() -> tuple[ColumnElement[bool], ...]:
    """The conditions under which a delivery waits for a worker."""
    unclaimed = or_(DeliveryRow.claimed_until.is_(None), DeliveryRow.claimed_until < func.now())
    return (DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.next_attempt_at <= func.now(), unclaimed)


def record(session: Session, due: DueDelivery, answer: Answer) -> None:
    """Writes down one try: delivered, or when the next one is; 410 or five bad days disable the endpoint."""
    # The endpoint first, as whoever deletes it does; not so hard that new deliveries to it would have to wait.
    webhook = session.get(WebhookRow, due.webhook, with_for_update={"key_share": True}, populate_existing=True)
    delivery = session.get(DeliveryRow, due.id, with_for_update=True, populate_existing=True)
    if webhook is None or delivery is None or len(delivery.tries) != due.number - 1:
        # The endpoint was deleted, or the claim ran out and another worker made this try.
        return
    now = datetime.now(UTC)
    delivery.tries = [*delivery.tries, _describe(answer, now)]
    delivery.claimed_until = None
    if answer.received:
        delivery.state, delivery.delivered_at, delivery.next_attempt_at = DeliveryState.DELIVERED, func.now(), None
        webhook.failing_since = webhook.disabled_at = webhook.disabled_reason = None
        return
    _plan_retry(delivery, answer)
    webhook.failing_since = webhook.failing_since or now
    if answer.status == _GONE:
        _disable(session, webhook, "The receiver answered 410 Gone.")
    elif now - webhook.failing_since >= GIVE_UP_AFTER:
        _disable(session, webhook, "Nothing was received for five days.")


def _due(delivery: DeliveryRow, webhook: WebhookRow, now: datetime | None) -> DueDelivery:
    overlaps = webhook.previous_secret_until is not None and now is not None and webhook.previous_secret_until > now
    previous = (webhook.previous_secret,) if webhook.previous_secret is not None and overlaps else ()
    return DueDelivery(
        id=delivery.id,
        webhook=webhook.id,
        url=webhook.url,
        body=delivery.body,
        secrets=(webhook.secret, *previous),
        event=delivery.event_id,
        number=len(delivery.tries) + 1,
    )


def _plan_retry(delivery: DeliveryRow, answer: Answer) -> None:
    waits: Sequence[float] = settings().webhook_retry_seconds
    done = len(delivery.tries)
    if done > len(waits):
        delivery.state, delivery.next_attempt_at = DeliveryState.FAILED, None
        return
    # So that endpoints that failed together do not come back together; no secret, so no secure source.
    wait = waits[done - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
    asked = min(answer.retry_after or 0, MAX_RETRY_AFTER_SECONDS)
    delivery.next_attempt_at = func.now() + timedelta(seconds=max(wait, asked))


def _disable(session: Session, webhook: WebhookRow, reason: str) -> None:
    webhook.disabled_at, webhook.disabled_reason = func.now(), reason
    session.flush()
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.webhook_id == webhook.id, DeliveryRow.state == DeliveryState.PENDING)
        .values(state=DeliveryState.FAILED, next_attempt_at=None)
    )


def _describe(answer: Answer, now: datetime) -> dict[str, object]:
    told = DeliveryTry(
        at=now,
        status=answer.status,
        answer=answer.answer.replace("\x00", "")[:ANSWER_LENGTH],
        error=answer.error,
        milliseconds=round(answer.milliseconds, 1),
    )
    return told.model_dump(mode="json")
