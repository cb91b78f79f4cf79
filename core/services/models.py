"""Neural networks that users uploaded."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from core.database.tables import ModelRow
from core.description import ModelDescription
from core.ids import new_id
from core.queue import enqueue
from core.resources.model import Model, ModelCreate, ModelFile, ModelLayer, ModelLayers, ModelSummary, Rename
from core.resources.shape import Page
from core.services import inspected, uploads
from core.services.pages import page
from core.services.tenancy import get_owned, owned
from core.specs.base import Capability
from core.specs.methods import METHODS, method_name
from core.states import InspectionState


def create(session: Session, tenant: str, asked: ModelCreate) -> Model:
    """A new model that waits for its inspection; raises `not_found` for a foreign upload."""
    files = uploads.take(session, tenant, asked.uploads)
    row = ModelRow(
        id=new_id("mdl"),
        tenant_id=tenant,
        name=asked.name or inspected.name_of(files),
        user_metadata=dict(asked.metadata),
        state=InspectionState.INSPECTING,
        **inspected.columns_of(files),
    )
    session.add(row)
    session.flush()
    enqueue(session, "inspect", row.id)
    return _show(row)


def get(session: Session, tenant: str, identifier: str) -> Model:
    """One model; raises `not_found`."""
    return _show(get_owned(session, ModelRow, tenant, identifier))


def list_(
    session: Session, tenant: str, *, limit: int = 50, after: str | None = None, state: InspectionState | None = None
) -> Page[ModelSummary]:
    """Models, newest first; deleted ones only when asked for."""
    states = inspected.filter_states([state] if state else None)
    statement = owned(ModelRow, tenant).where(ModelRow.state.in_(states))
    return page(session, statement, ModelRow, limit=limit, after=after, show=_summarise)


def layers(session: Session, tenant: str, identifier: str) -> ModelLayers:
    """The layer table of a model; empty until it is ready."""
    description = description_of(get_owned(session, ModelRow, tenant, identifier))
    return ModelLayers(data=()) if description is None else table_of(description)


def table_of(description: ModelDescription) -> ModelLayers:
    """The layers with their shares of the whole model, and what no layer holds."""
    rows = description.layers
    activations = sum(layer.activation_bytes for layer in rows)
    return ModelLayers(
        data=tuple(
            ModelLayer(
                **dict(layer),
                share_of_parameters=_share(layer.parameters, description.parameters),
                share_of_macs=_share(layer.macs, description.macs),
                share_of_activations=_share(layer.activation_bytes, activations),
            )
            for layer in rows
        ),
        other_parameters=description.parameters - sum(layer.parameters for layer in rows),
        other_macs=description.macs - sum(layer.macs for layer in rows),
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def rename(session: Session, tenant: str, identifier: str, asked: Rename) -> Model:
    """Changes name and metadata."""
    row = get_owned(session, ModelRow, tenant, identifier, lock="update")
    inspected.change(row, asked)
    session.flush()
    return _show(row)


def delete(session: Session, tenant: str, identifier: str) -> None:
    """Deletes a model that no unfinished job uses; raises `conflict`."""
    inspected.delete(session, ModelRow, tenant, identifier)


def description_of(row: ModelRow) -> ModelDescription | None:
    """What inspection found; None while the model is not ready, or has to be inspected again."""
    return inspected.read_description(row, ModelDescription)


def capabilities(description: ModelDescription) -> dict[str, Capability]:
    """What each method, as its example has it, could do with the model."""
    return {method_name(method): method.model_validate(method.example).requires(description) for method in METHODS}


def summary_of(row: ModelRow) -> dict[str, Any]:
    """What an event tells of a model."""
    return _summarise_one(row).model_dump(mode="json", include={"name", "format", "bytes", "parameters", "error"})


def _summarise(rows: Sequence[ModelRow]) -> list[ModelSummary]:
    return [_summarise_one(row) for row in rows]


def _summarise_one(row: ModelRow) -> ModelSummary:
    description = description_of(row)
    return ModelSummary(
        id=row.id,
        created_at=row.created_at,
        name=row.name,
        metadata=row.user_metadata,
        state=inspected.state_of(row, description),
        format=description.format if description else None,
        sha256=row.sha256,
        bytes=row.bytes,
        parameters=description.parameters if description else None,
        error=inspected.failure_of(row),
    )


def _show(row: ModelRow) -> Model:
    base = {
        **dict(_summarise_one(row)),
        "filename": row.files[0]["filename"],
        "files": tuple(ModelFile.model_validate(file) for file in row.files),
        "content_url": f"/v1/models/{row.id}/content",
        "layers_url": f"/v1/models/{row.id}/layers",
    }
    description = description_of(row)
    if description is None:
        return Model(**base)
    found = {name: getattr(description, name) for name in _DESCRIBED}
    return Model(**base, **found, capabilities=capabilities(description))


_DESCRIBED = (
    "mode",
    "why",
    "why_node",
    "inputs",
    "outputs",
    "macs",
    "planned_activation_bytes",
    "planned_activation_node",
    "counted_at",
    "bytes_stripped",
    "batch",
    "batch_reason",
    "operators",
    "parity",
    "warnings",
)
