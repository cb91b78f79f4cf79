"""Every table of the service. Nothing newer than PostgreSQL 15; times are UTC; ids are those of `core.ids`."""

from core.database.tables.base import Identified, Json, Leased, Owned, Table
from core.database.tables.events import DeliveryRow, EventRow, OutboxRow, WebhookRow, WorkerRow
from core.database.tables.jobs import ArtifactRow, CheckpointRow, JobModelRow, JobRow, MetricRow, StepRow, StreamRow
from core.database.tables.tenants import IdempotencyRow, KeyRow, SessionRow, SignInLinkRow, TenantRow
from core.database.tables.uploads import DatasetRow, ModelRow, UploadRow

__all__ = [
    "ArtifactRow",
    "CheckpointRow",
    "DatasetRow",
    "DeliveryRow",
    "EventRow",
    "IdempotencyRow",
    "Identified",
    "JobModelRow",
    "JobRow",
    "Json",
    "KeyRow",
    "Leased",
    "MetricRow",
    "ModelRow",
    "OutboxRow",
    "Owned",
    "SessionRow",
    "SignInLinkRow",
    "StepRow",
    "StreamRow",
    "Table",
    "TenantRow",
    "UploadRow",
    "WebhookRow",
    "WorkerRow",
]
