"""The models, one model, and the form that adds one."""

from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.dashboard import forms
from api.dashboard.new_job import Texts
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from core.errors import ModelpressError
from core.resources.model import Model, ModelCreate, ModelLayer
from core.services import jobs, models

router = APIRouter(route_class=PageRoute)

PAGE_SIZE = 25


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer with its shares of parameters, of MACs and of activations, in percent."""

    layer: ModelLayer
    parameters: float
    macs: float
    activations: float


@router.get("/models")
def show_models(view: Seen, after: str | None = None) -> Response:
    """The list, newest first, and the upload."""
    return list_page(view, after=after)


@router.post("/models")
def add_model(view: Done, texts: Texts) -> Response:
    """Make a model of the files that the page has uploaded."""
    view.need("models:write")
    body = {"uploads": texts.get("upload", "").split(","), "name": texts.get("name", "").strip()[:200] or None}
    try:
        with view.session.begin_nested():
            made = models.create(view.session, view.tenant, ModelCreate.model_validate(body))
        return see(f"/models/{made.id}")
    except ValidationError as error:
        return list_page(view, error=forms.refusal(error, body))
    except ModelpressError as error:
        return list_page(view, error=error)


@router.get("/models/{model_id}")
def show_model(model_id: str, view: Seen) -> Response:
    """One model: what it is, and what can be done with it."""
    model = models.get(view.session, view.tenant, model_id)
    table = models.layers(view.session, view.tenant, model_id)
    rows = layer_rows(table.data)
    values = {
        "model": model,
        "table": table,
        "layers": rows,
        "layers_sentence": layers_sentence(rows),
        "jobs": jobs.list_(view.session, view.tenant, limit=10, model=model_id).data,
        "applicable": sum(capability.ok for capability in model.capabilities.values()),
        "batch_words": batch_words(model),
        "counted_words": counted_words(model),
    }
    return view.page("model.html", values)


@router.post("/models/{model_id}/delete")
def delete_model(model_id: str, view: Done) -> RedirectResponse:
    """Delete a model that no unfinished job uses."""
    view.need("models:write")
    models.delete(view.session, view.tenant, model_id)
    return see("/models")


def list_page(view: View, *, after: str | None = None, error: ModelpressError | None = None) -> Response:
    """The list with the upload, and with what went wrong with it."""
    page = models.list_(view.session, view.tenant, limit=PAGE_SIZE, after=after)
    values = {"models": page, "after": after or "", "error": error}
    return view.page("models.html", values, status=422 if error else 200)


def layer_rows(layers: tuple[ModelLayer, ...]) -> tuple[LayerRow, ...]:
    """The layers with their shares of the whole."""
    return tuple(
        LayerRow(
            layer,
            parameters=round(100 * layer.share_of_parameters, 2),
            macs=round(100 * layer.share_of_macs, 2),
            activations=round(100 * layer.share_of_activations, 2),
        )
        for layer in layers
    )


def layers_sentence(rows: tuple[LayerRow, ...]) -> str:
    """Which layer to shrink for bytes, and which for time."""
    if not rows:
        return ""
    large, slow = max(rows, key=lambda row: row.parameters), max(rows, key=lambda row: row.macs)
    if large is slow:
        return f"{large.layer.name} holds {large.parameters:.1f} % of the parameters, {large.macs:.1f} % of the MACs."
    return (
        f"{large.layer.name} holds {large.parameters:.1f} % of the parameters, {slow.layer.name} takes "
        f"{slow.macs:.1f} % of the MACs: shrink the first for bytes, the second for time."
    )


def counted_words(model: Model) -> str:
    """What the free sizes were while costs were counted."""
    sizes = [f"{name} {size}" for name, size in model.counted_at.items() if name != "batch"]
    return f"counted at {', '.join(sizes)}" if sizes else ""


def batch_words(model: Model) -> str:
    """What is known of the batch size."""
    words = {
        "dynamic": "any batch size",
        "freed": "any batch size, made so while reading",
        "fixed": "one batch size only",
    }
    return words.get(model.batch or "", "")
