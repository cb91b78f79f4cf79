"""The settings of the service, read from the environment; `docs/settings.md` is generated from here."""

from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting of API, workers and dispatcher; all but four well-known names are prefixed `MODELPRESS_`."""

    model_config = SettingsConfigDict(env_prefix="MODELPRESS_", extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field(
        validation_alias=AliasChoices("DATABASE_URL", "database_url"), description="PostgreSQL 15 or newer."
    )
    redis_url: str = Field(
        validation_alias=AliasChoices("REDIS_URL", "redis_url"), description="Redis or Valkey, for Celery's messages."
    )
    storage_url: str = Field(
        validation_alias=AliasChoices("STORAGE_URL", "storage_url"),
        description="Where blobs are kept: `file:///folder` or `s3://bucket/prefix` (credentials as AWS_* variables).",
    )
    sandbox: Literal["auto", "bwrap", "none"] = Field(
        "auto",
        validation_alias=AliasChoices("SANDBOX", "sandbox"),
        description="How the runner is confined; `none` must be typed by the operator and is shown on every page.",
    )
    scratch_dir: Path = Field(description="Folder on disk for staged files and runs; never a tmpfs.")
    public_url: str = Field("http://127.0.0.1:8000", description="Address that links in pages and webhooks begin with.")
    allowed_hosts: tuple[str, ...] = Field(("127.0.0.1", "localhost"), description="Host headers that are answered.")
    queue_prefix: str = Field("modelpress:", description="Prefix of every key in Redis.")

    max_upload_bytes: int = Field(8 * 2**30, gt=0, description="Largest upload, in bytes.")
    webhook_allow: tuple[str, ...] = Field(
        (), description="Networks (CIDR) that webhooks may reach although they are private, and by plain http."
    )
    webhook_retry_seconds: tuple[float, ...] = Field(
        (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="Waits between the tries of a delivery, in seconds (Standard Webhooks).",
    )
    webhook_timeout_seconds: float = Field(15, gt=0, description="Time for one try of a delivery, in seconds.")

    heartbeat_seconds: float = Field(2, gt=0, description="Time between two heartbeats of a lease, in seconds.")
    lease_seconds: float = Field(20, gt=0, description="Life of a lease without a heartbeat, in seconds.")
    self_fence_seconds: float = Field(
        14, gt=0, description="A worker that has not renewed its lease for this long kills its runner, in seconds."
    )
    sweep_seconds: float = Field(5, gt=0, description="Time between two sweeps of the dispatcher, in seconds.")
    second_loss_delay_seconds: float = Field(10, ge=0, description="Wait before the third attempt, in seconds.")
    max_worker_losses: int = Field(3, ge=1, description="Losses of a worker or runner after which a job fails.")
    stall_seconds: float = Field(600, gt=0, description="A runner silent for this long is stopped, in seconds.")
    checkpoint_seconds: float = Field(
        300, gt=0, description="Time after which a long step writes down its state again, in seconds."
    )
    checkpoint_retention_seconds: float = Field(
        86_400,
        ge=0,
        description="How long what finished steps made is kept for later jobs that begin in the same way, in seconds; "
        "0 keeps nothing beyond the job.",
    )
    inspect_seconds: float = Field(300, gt=0, description="Wall time of an inspection, in seconds.")
    inspect_memory_bytes: int = Field(8_000_000_000, gt=0, description="Memory of an inspection, in bytes.")
    scratch_bytes: int = Field(20 * 2**30, gt=0, description="Disk that one run may fill, in bytes.")
    cache_bytes: int = Field(20 * 2**30, gt=0, description="Disk that staged inputs may fill on a host, in bytes.")
    runner_module: str = Field("runner", description="The program that is run in the sandbox; another only in tests.")
    drain_seconds: float = Field(25, gt=0, description="Time that a worker has to let go of its job, in seconds.")
    idempotency_seconds: float = Field(86_400, gt=0, description="Life of an Idempotency-Key, in seconds.")
    session_seconds: float = Field(14 * 86_400, gt=0, description="Life of a browser session, in seconds.")

    @field_validator("webhook_allow")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """What is no network stops the process at its start, not the first webhook."""
        for text in value:
            ip_network(text, strict=False)
        return value


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
