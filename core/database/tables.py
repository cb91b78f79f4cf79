"""Every table of the service. Nothing newer than PostgreSQL 15; times are UTC; ids are those of `core.ids`."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

Json = dict[str, Any]


class Table(DeclarativeBase):
    """Base of every table; constraint names follow one convention so that migrations are stable."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        datetime: DateTime(timezone=True),
        float: Double,
        Json: JSONB(none_as_null=True),
        list[Json]: JSONB,
        list[str]: ARRAY(Text),
    }


class Created:
    """A row that remembers when it was made, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Owned(Created):
    """A row of one tenant; every query on it goes through `core.services.tenancy`.

    Tenants are not deleted, so their foreign keys carry an index only where a list needs one.
    """

    @declared_attr
    def tenant_id(cls) -> Mapped[str]:  # noqa: N805 - SQLAlchemy's declared_attr takes the class
        """The tenant that the row belongs to."""
        return mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))


class Identified(Owned):
    """A row of one tenant that users know by its id."""

    id: Mapped[str] = mapped_column(primary_key=True)


class Leased:
    """A row that one worker at a time works on: a lease with a heartbeat and a fencing token, the epoch."""

    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    worker_losses: Mapped[int] = mapped_column(server_default=text("0"))
    run_after: Mapped[datetime] = mapped_column(server_default=func.now())


class TenantRow(Created, Table):
    """Whom rows belong to; a fresh service has one."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class KeyRow(Identified, Table):
    """An API key; only the SHA-256 of its secret is kept."""

    __tablename__ = "keys"

    name: Mapped[str]
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class SignInLinkRow(Owned, Table):
    """A one-time link that `modelpress up` prints; only the SHA-256 of its token is kept."""

    __tablename__ = "sign_in_links"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SessionRow(Owned, Table):
    """A browser session; only the SHA-256 of the cookie is kept."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    csrf_token: Mapped[str]
    scopes: Mapped[list[str]]
    key_id: Mapped[str | None] = mapped_column(ForeignKey("keys.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime]


class UploadRow(Identified, Table):
    """Bytes that a user sent, kept as a blob of that SHA-256."""

    __tablename__ = "uploads"

    filename: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index(None, "tenant_id", "id"),)


class Inspected(Leased):
    """A model or a data set: files, a state, and what inspection found."""

    name: Mapped[str]
    user_metadata: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str]
    files: Mapped[list[Json]]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[Json | None]
    inspector_version: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[Json | None]


class ModelRow(Inspected, Identified, Table):
    """A neural network that a user uploaded."""

    __tablename__ = "models"

    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index("ix_models_inspecting", "run_after", postgresql_where=text("state = 'inspecting'")),
    )


class DatasetRow(Inspected, Identified, Table):
    """Uploaded samples and how they are to be read."""

    __tablename__ = "datasets"

    spec: Mapped[Json]

    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index("ix_datasets_inspecting", "run_after", postgresql_where=text("state = 'inspecting'")),
    )


class JobRow(Leased, Identified, Table):
    """One run of a recipe on a model."""

    __tablename__ = "jobs"

    name: Mapped[str]
    user_metadata: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    # What was asked: recipe, target, constraints and limits as one JSON object (`core.resources.job.JobRequest`).
    request: Mapped[Json]
    seed: Mapped[int] = mapped_column(BigInteger)
    webhook_url: Mapped[str | None]
    state: Mapped[str]
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    cancel_requested_at: Mapped[datetime | None]
    progress: Mapped[Json | None]
    progress_at: Mapped[datetime | None]
    verdict: Mapped[Json | None]
    # The few numbers of the verdict that lists show, so that lists need not load it.
    headline: Mapped[Json | None]
    error: Mapped[Json | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # The number of the last event of the job's stream; taken under the row's guarded update, so it has no gaps.
    stream_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (
        CheckConstraint(
            "state <> 'running' OR (lease_owner IS NOT NULL AND lease_expires_at IS NOT NULL)", name="running_is_leased"
        ),
        Index(None, "tenant_id", "id"),
        Index(None, "tenant_id", "state"),
        Index("ix_jobs_waiting", "priority", "created_at", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_leased", "lease_expires_at", postgresql_where=text("state = 'running'")),
    )


class JobModelRow(Owned, Table):
    """Another model that a job needs besides its own, such as a teacher."""

    __tablename__ = "job_models"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True, index=True)


class StepRow(Identified, Table):
    """One step of one job; `position` counts prepare, the recipe's steps, export and measure from 0."""

    __tablename__ = "steps"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str]
    state: Mapped[str]
    seconds: Mapped[float | None]
    message: Mapped[str] = mapped_column(server_default=text("''"))
    quality: Mapped[float | None]

    __table_args__ = (UniqueConstraint("job_id", "position"),)


class CheckpointRow(Owned, Table):
    """Files from which a job goes on: after a finished step of its recipe, or from inside the one that runs.

    `key` says what led there and `host` on which kind of machine, so that another job that begins in the same way finds
    it. One that is dropped waits until its blobs are deleted.
    """

    __tablename__ = "checkpoints"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int]
    finished: Mapped[bool]
    key: Mapped[str]
    host: Mapped[str]
    files: Mapped[list[Json]]
    # The job's last metric before it; what a lost attempt measured later does not count.
    last_metric: Mapped[int] = mapped_column(BigInteger)
    dropped_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "tenant_id", "key"),)


class ArtifactRow(Identified, Table):
    """A manifest of files; a job and kind has one `final` artifact at most."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    epoch: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    files: Mapped[list[Json]]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]

    __table_args__ = (
        Index(None, "job_id"),
        Index("uq_artifacts_final", "job_id", "kind", unique=True, postgresql_where=text("state = 'final'")),
    )


class MetricRow(Owned, Table):
    """One measured number with its unit, split and conditions; `at` is the position in a series."""

    __tablename__ = "metrics"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    epoch: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]
    split: Mapped[str | None]
    subject: Mapped[str]
    step: Mapped[str | None]
    at: Mapped[float | None]
    conditions: Mapped[Json]

    __table_args__ = (Index(None, "job_id", "name"),)


class StreamRow(Owned, Table):
    """One event of a job's live stream, numbered per job; what server-sent events resume from."""

    __tablename__ = "stream"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    type: Mapped[str]
    payload: Mapped[Json]


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


class IdempotencyRow(Owned, Table):
    """The first answer to a POST with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int | None]
    headers: Mapped[Json | None]
    body: Mapped[str | None]


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
