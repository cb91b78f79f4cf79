"""Who works on what: a lease with a heartbeat, and an epoch that refuses whoever lost it.

Every write of a worker goes through `guard_job` or `guard_inspection`: they lock the row if, and only if, it is still
this attempt's, so all that follows in the transaction is fenced.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from sqlalchemy import ColumnElement, and_, func, select, text, update
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, JobRow, ModelRow
from core.services import endings
from core.services.endings import LeasedRow
from core.settings import settings
from core.states import InspectionState, JobState

LeaseKind = Literal["job", "model", "dataset"]

L = TypeVar("L", JobRow, ModelRow, DatasetRow)

_ROWS: dict[LeaseKind, type[LeasedRow]] = {"job": JobRow, "model": ModelRow, "dataset": DatasetRow}


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt's right to work on one row, until somebody else has a higher epoch."""

    kind: LeaseKind
    id: str
    tenant: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat: whether a user wants the job cancelled."""

    cancel: bool


class LeaseLost(Exception):  # noqa: N818 - it says what happened
    """The row belongs to somebody else, or to nobody; stop, and write nothing more."""


def take(row: LeasedRow, kind: LeaseKind, worker: str) -> Lease:
    """Leases a row that the caller has locked and found waiting."""
    row.epoch += 1
    row.attempt += 1
    row.lease_owner = worker
    row.lease_expires_at = expiry()
    row.heartbeat_at = func.now()
    return Lease(kind=kind, id=row.id, tenant=row.tenant_id, epoch=row.epoch, owner=worker)


def expiry() -> ColumnElement[datetime]:
    """When a lease that is renewed now runs out, by the database's clock."""
    return func.now() + timedelta(seconds=settings().lease_seconds)


def renew(session: Session, lease: Lease) -> Beat | None:
    """Prolongs a lease; None when it is lost. A heartbeat may be forgotten in a crash, so it does not wait for the
    disk."""
    session.execute(text("SET LOCAL synchronous_commit = off"))
    row_class = _ROWS[lease.kind]
    cancel = JobRow.cancel_requested_at.is_not(None) if row_class is JobRow else text("false")
    statement = (
        update(row_class)
        .where(_held(row_class, lease))
        .values(lease_expires_at=expiry(), heartbeat_at=func.now())
        .returning(cancel)
        .execution_options(synchronize_session=False)
    )
    answer = session.execute(statement).one_or_none()
    return None if answer is None else Beat(cancel=bool(answer[0]))


def release(session: Session, lease: Lease) -> None:
    """Gives work back that was not at fault: its attempt is not charged. Raises LeaseLost."""
    row = guard(session, lease)
    row.attempt -= 1
    if isinstance(row, JobRow) and row.cancel_requested_at is not None:
        endings.end_job(session, row, JobState.CANCELLED)
    else:
        endings.requeue(session, row)


def lose(session: Session, lease: Lease, reason: str) -> None:
    """A runner was killed without a word: try again, or give up after as many losses as allowed. Raises LeaseLost."""
    endings.lose(session, guard(session, lease), reason)


def guard(session: Session, lease: Lease) -> LeasedRow:
    """The row, locked, if the lease still holds; raises LeaseLost."""
    return guard_job(session, lease) if lease.kind == "job" else guard_inspection(session, lease)


def guard_job(session: Session, lease: Lease) -> JobRow:
    """The job, locked, if the lease still holds; raises LeaseLost."""
    return _lock(session, JobRow, lease)


def guard_inspection(session: Session, lease: Lease) -> ModelRow | DatasetRow:
    """The model or data set, locked, if the lease still holds; raises LeaseLost."""
    return _lock(session, ModelRow, lease) if lease.kind == "model" else _lock(session, DatasetRow, lease)


def _lock(session: Session, row_class: type[L], lease: Lease) -> L:
    statement = select(row_class).where(_held(row_class, lease)).with_for_update()
    row = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise LeaseLost(f"{lease.id} is no longer ours (epoch {lease.epoch}).")
    return row


def _held(row_class: type[LeasedRow], lease: Lease) -> ColumnElement[bool]:
    return and_(
        row_class.id == lease.id,
        row_class.epoch == lease.epoch,
        row_class.lease_owner == lease.owner,
        row_class.state == (JobState.RUNNING if row_class is JobRow else InspectionState.INSPECTING),
    )
