"""Samples that users uploaded."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from core.database.tables import DatasetRow
from core.description import DatasetDescription, DatasetSpec
from core.ids import new_id
from core.queue import enqueue
from core.resources.model import Dataset, DatasetCreate, DatasetSummary, Rename
from core.resources.shape import Page
from core.services import inspected, uploads
from core.services.pages import page
from core.services.tenancy import get_owned, owned
from core.states import InspectionState

# What of a description the API shows.
_FOUND = ("format", "inputs", "splits", "classes", "label_names", "reading", "twins", "warnings")


def create(session: Session, tenant: str, asked: DatasetCreate) -> Dataset:
    """A new data set that waits for its inspection; raises `not_found` for a foreign upload."""
    files = uploads.take(session, tenant, asked.uploads)
    row = DatasetRow(
        id=new_id("dst"),
        tenant_id=tenant,
        name=asked.name or inspected.name_of(files),
        user_metadata=dict(asked.metadata),
        state=InspectionState.INSPECTING,
        spec=asked.model_dump(mode="json", include=set(DatasetSpec.model_fields)),
        **inspected.columns_of(files),
    )
    session.add(row)
    session.flush()
    enqueue(session, "inspect", row.id)
    return _show(row)


def get(session: Session, tenant: str, identifier: str) -> Dataset:
    """One data set; raises `not_found`."""
    return _show(get_owned(session, DatasetRow, tenant, identifier))


def list_(
    session: Session, tenant: str, *, limit: int = 50, after: str | None = None, state: InspectionState | None = None
) -> Page[DatasetSummary]:
    """Data sets, newest first; deleted ones only when asked for."""
    states = inspected.filter_states([state] if state else None)
    statement = owned(DatasetRow, tenant).where(DatasetRow.state.in_(states))
    return page(session, statement, DatasetRow, limit=limit, after=after, show=_summarise)


def rename(session: Session, tenant: str, identifier: str, asked: Rename) -> Dataset:
    """Changes name and metadata."""
    row = get_owned(session, DatasetRow, tenant, identifier, lock="update")
    inspected.change(row, asked)
    session.flush()
    return _show(row)


def delete(session: Session, tenant: str, identifier: str) -> None:
    """Deletes a data set that no unfinished job uses; raises `conflict`."""
    inspected.delete(session, DatasetRow, tenant, identifier)


def spec_of(row: DatasetRow) -> DatasetSpec:
    """How the arrays are to be read."""
    return DatasetSpec.model_validate(row.spec)


def description_of(row: DatasetRow) -> DatasetDescription | None:
    """What inspection found; None while the data set is not ready, or has to be inspected again."""
    return inspected.read_description(row, DatasetDescription)


def summary_of(row: DatasetRow) -> dict[str, Any]:
    """What an event tells of a data set."""
    return _summarise_one(row).model_dump(mode="json", include={"name", "task", "bytes", "error"})


def _summarise(rows: Sequence[DatasetRow]) -> list[DatasetSummary]:
    return [_summarise_one(row) for row in rows]


def _summarise_one(row: DatasetRow) -> DatasetSummary:
    return DatasetSummary(
        id=row.id,
        created_at=row.created_at,
        name=row.name,
        metadata=row.user_metadata,
        state=inspected.state_of(row, description_of(row)),
        task=row.spec["task"],
        sha256=row.sha256,
        bytes=row.bytes,
        error=inspected.failure_of(row),
    )


def _show(row: DatasetRow) -> Dataset:
    base = {**dict(_summarise_one(row)), "filename": row.files[0]["filename"], "spec": spec_of(row)}
    description = description_of(row)
    if description is None:
        return Dataset(**base)
    found = {name: getattr(description, name) for name in _FOUND}
    return Dataset(**base, **found)
