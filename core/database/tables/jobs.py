"""Jobs, what they go through, and what they leave."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Identified, Json, Leased, Owned, Table


class JobRow(Leased, Identified, Table):
    """One run of a recipe on a model."""

    __tablename__ = "jobs"

    name: Mapped[str]
    user_metadata: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    # What was asked: plan, recipe, target, constraints and limits as one JSON object (`core.resources.job.JobCreate`).
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
