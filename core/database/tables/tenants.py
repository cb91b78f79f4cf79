"""Whom rows belong to, and how they prove it: tenants, keys, sessions, and the first answers to their requests."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Created, Identified, Json, Owned, Table


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


class IdempotencyRow(Owned, Table):
    """The first answer to a POST with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int | None]
    headers: Mapped[Json | None]
    body: Mapped[str | None]
