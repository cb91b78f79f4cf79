"""Answers to POSTs that carried an Idempotency-Key.

The key, the work and its answer are one transaction: a fault keeps none of them, so the request may be sent again.
"""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.database.tables import IdempotencyRow
from core.errors import ModelpressError
from core.services.tenancy import owned
from core.settings import settings


@dataclass(frozen=True, slots=True)
class Stored:
    """The first answer."""

    status: int
    headers: dict[str, str]
    body: str


def begin(session: Session, tenant: str, key: str, request_sha256: str) -> Stored | None:
    """The first answer to this key, or None when this is the first request.

    Raises `idempotency_conflict` for another request under the same key, and `idempotency_in_flight` while the first
    one is being answered.
    """
    lock = int.from_bytes(sha256(f"{tenant}\n{key}".encode()).digest()[:8], signed=True)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise ModelpressError("idempotency_in_flight", "A request with this key is being answered.", retryable=True)
    _forget_old(session, tenant, key)
    row = session.scalars(owned(IdempotencyRow, tenant).where(IdempotencyRow.key == key)).one_or_none()
    if row is None:
        session.add(IdempotencyRow(key=key, tenant_id=tenant, request_sha256=request_sha256))
        session.flush()
        return None
    if row.request_sha256 != request_sha256:
        raise ModelpressError("idempotency_conflict", "This key was sent before with another request.")
    if row.status is None:
        raise ModelpressError("idempotency_in_flight", "A request with this key is being answered.", retryable=True)
    return Stored(status=row.status, headers=row.headers or {}, body=row.body or "")


def finish(session: Session, tenant: str, key: str, *, status: int, headers: dict[str, str], body: str) -> None:
    """Keeps the answer, in the transaction that `begin` was called in."""
    row = session.scalars(owned(IdempotencyRow, tenant).where(IdempotencyRow.key == key)).one()
    row.status, row.headers, row.body = status, dict(headers), body
    session.flush()


def _forget_old(session: Session, tenant: str, key: str) -> None:
    oldest = func.now() - timedelta(seconds=settings().idempotency_seconds)
    session.execute(
        delete(IdempotencyRow).where(
            IdempotencyRow.tenant_id == tenant, IdempotencyRow.key == key, IdempotencyRow.created_at < oldest
        )
    )
