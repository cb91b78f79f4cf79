"""Inspections of models and data sets, on behalf of workers; every write is refused once the lease is lost."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import DatasetRow, ModelRow
from core.description import DatasetDescription, DatasetSpec, ModelDescription
from core.resources.shape import Failure
from core.services import datasets, endings
from core.services.files import ClaimedFile, claimed_files
from core.services.leases import Lease, guard_inspection, take
from core.states import InspectionState

R = TypeVar("R", ModelRow, DatasetRow)


@dataclass(frozen=True, slots=True)
class InspectionClaim:
    """All that a worker needs to inspect one model (then without a spec) or data set."""

    lease: Lease
    kind: Literal["model", "dataset"]
    files: tuple[ClaimedFile, ...]
    spec: DatasetSpec | None


def claim(session: Session, worker: str) -> InspectionClaim | None:
    """Leases the oldest waiting model, else the oldest waiting data set."""
    if (model := _oldest(session, ModelRow)) is not None:
        return InspectionClaim(take(model, "model", worker), "model", claimed_files(model.files), None)
    if (dataset := _oldest(session, DatasetRow)) is not None:
        lease = take(dataset, "dataset", worker)
        return InspectionClaim(lease, "dataset", claimed_files(dataset.files), datasets.spec_of(dataset))
    return None


def accept(session: Session, lease: Lease, description: ModelDescription | DatasetDescription) -> None:
    """The model or data set is ready; an event tells it once, not after every newer inspector. Raises LeaseLost."""
    row = guard_inspection(session, lease)
    was_ready = row.inspector_version is not None
    row.description = description.model_dump(mode="json")
    row.inspector_version = description.inspector_version
    endings.end_inspection(session, row, None, silent=was_ready)


def reject(session: Session, lease: Lease, failure: Failure) -> None:
    """The model or data set cannot be used, for this reason; raises LeaseLost."""
    endings.end_inspection(session, guard_inspection(session, lease), failure)


def _oldest(session: Session, row_class: type[R]) -> R | None:
    statement = (
        select(row_class)
        .where(
            row_class.state == InspectionState.INSPECTING,
            row_class.lease_owner.is_(None),
            row_class.run_after <= func.now(),
        )
        .order_by(row_class.created_at, row_class.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()
