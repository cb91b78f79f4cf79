"""What happened, and how it is told to endpoints and workers; who works."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Created, Identified, Json, Table


class EventRow(Identified, Table):
    """What happened, as webhooks tell it: `job.succeeded`, `model.ready` and so on."""

    __tablename__ = "events"

    type: Mapped[str]
    subject_id: Mapped[str]
    data: Mapped[Json]

    __table_args__ = (Index(None, "tenant_id", "id"), Index(None, "subject_id"))


class OutboxRow(Created, Table):
    """A Celery message that leaves only after its transaction committed."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    task: Mapped[str]
    queue: Mapped[str]
    subject_id: Mapped[str]
    sent_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),)


class WebhookRow(Identified, Table):
    """An endpoint; with `job_id` it is for that job alone."""

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(server_default=text("''"))
    user_metadata: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    url: Mapped[str]
    events: Mapped[list[str]]
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]

    __table_args__ = (Index(None, "tenant_id", "id"),)


class DeliveryRow(Identified, Table):
    """One event on its way to one endpoint; `body` is the text that is signed and sent, the same on each try."""

    __tablename__ = "deliveries"

    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), index=True)
    body: Mapped[str]
    state: Mapped[str]
    tries: Mapped[list[Json]] = mapped_column(server_default=text("'[]'"))
    next_attempt_at: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id"),
        Index(None, "webhook_id", "id"),
        Index("ix_deliveries_due", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    )


class WorkerRow(Created, Table):
    """A worker or dispatcher that is alive; swept when its heartbeat is old."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    sandbox: Mapped[str]
    busy_with: Mapped[str | None]
    facts: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
