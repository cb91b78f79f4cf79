"""What models and data sets have in common: files, a name, an inspection."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TypedDict, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database.tables import DatasetRow, JobModelRow, JobRow, Json, ModelRow
from core.description import INSPECTOR_VERSION, DatasetDescription, ModelDescription
from core.errors import ModelpressError
from core.resources.model import Rename
from core.resources.shape import Failure, Metadata
from core.services.tenancy import get_owned, owned
from core.states import INSPECTION_MOVES, TERMINAL, InspectionState

D = TypeVar("D", ModelDescription, DatasetDescription)


class Files(TypedDict):
    """The columns that say which bytes a model or data set is made of."""

    files: list[Json]
    sha256: str
    bytes: int


def columns_of(files: list[Json]) -> Files:
    """Files as columns; several files have the SHA-256 of their digests, one a line."""
    digests = [str(file["sha256"]) for file in files]
    whole = digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()
    return {"files": files, "sha256": whole, "bytes": sum(int(file["bytes"]) for file in files)}


def name_of(files: list[Json]) -> str:
    """The name of an object that was given none: its file's, without the extension."""
    filename = str(files[0]["filename"])
    return (filename.rpartition(".")[0] or filename)[:200]


def change(row: ModelRow | DatasetRow | JobRow, asked: Rename) -> None:
    """Gives a new name, and merges metadata as Stripe does: an empty value removes its key."""
    if asked.name is not None:
        row.name = asked.name
    if asked.metadata is not None:
        row.user_metadata = merge(row.user_metadata, asked.metadata)


def merge(old: Metadata, asked: Metadata) -> Metadata:
    """The old metadata with the new values; an empty value removes its key."""
    return {key: value for key, value in {**old, **asked}.items() if value != ""}


def delete(session: Session, row_class: type[ModelRow] | type[DatasetRow], tenant: str, identifier: str) -> None:
    """Marks a model or data set as deleted; raises `conflict` while a job that is not finished uses it."""
    row = get_owned(session, row_class, tenant, identifier, lock="update")
    using = owned(JobRow, tenant).where(uses(row_class, identifier), JobRow.state.not_in(TERMINAL))
    if session.scalars(using.limit(1)).first() is not None:
        raise ModelpressError("conflict", "A job that is not finished uses it.", hint="Cancel the job first.")
    if InspectionState.DELETED in INSPECTION_MOVES[InspectionState(row.state)]:
        row.state = InspectionState.DELETED
        row.lease_owner = row.lease_expires_at = None
        session.flush()


def uses(
    row_class: type[ModelRow] | type[DatasetRow], identifier: str | InstrumentedAttribute[str]
) -> ColumnElement[bool]:
    """Whether a job stands on the model, as its own or as another one that it needs, or on the data set."""
    if row_class is DatasetRow:
        return JobRow.dataset_id == identifier
    needed = select(JobModelRow.job_id).where(JobModelRow.job_id == JobRow.id, JobModelRow.model_id == identifier)
    return or_(JobRow.model_id == identifier, needed.correlate(JobRow, ModelRow).exists())


def read_description(row: ModelRow | DatasetRow, shape: type[D]) -> D | None:
    """What inspection found; None while it is not ready, or as an older inspector wrote it in words of its own.

    In the second case the next sweep has it inspected again.
    """
    if row.description is None or row.state != InspectionState.READY:
        return None
    try:
        return shape.model_validate(row.description)
    except ValidationError:
        if row.inspector_version == INSPECTOR_VERSION:
            raise
        return None


def state_of(row: ModelRow | DatasetRow, description: ModelDescription | DatasetDescription | None) -> InspectionState:
    """The state as users see it: what can no longer be read is about to be inspected again."""
    state = InspectionState(row.state)
    return InspectionState.INSPECTING if state is InspectionState.READY and description is None else state


def filter_states(states: Sequence[str] | None) -> Sequence[str]:
    """The states that a list shows: those asked for, else all but `deleted`."""
    return states or [state for state in InspectionState if state is not InspectionState.DELETED]


def failure_of(row: ModelRow | DatasetRow | JobRow) -> Failure | None:
    """Why it ended badly, if it did."""
    return None if row.error is None else Failure.model_validate(row.error)
