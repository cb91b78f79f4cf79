"""`/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.deps import ModelWriter, Reader, Reading, Storage, Writing
from api.downloads import RESPONSES, pick, send
from api.idempotency import Idempotent
from api.queries import InspectedPaging
from core.resources.model import Model, ModelCreate, ModelLayers, ModelSummary, Rename
from core.resources.shape import Page
from core.services import models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("", status_code=202, response_model=Model)
def create_model(body: ModelCreate, principal: ModelWriter, once: Idempotent) -> Response:
    """Make a model of an uploaded file; it is inspected, then `ready` or `rejected`."""
    return once.answer(
        lambda: models.create(once.session, principal.tenant, body), status=202, location="/v1/models/{id}"
    )


@router.get("")
def list_models(query: Annotated[InspectedPaging, Query()], principal: Reader, session: Reading) -> Page[ModelSummary]:
    """The models, newest first."""
    return models.list_(session, principal.tenant, limit=query.limit, after=query.after, state=query.state)


@router.get("/{model}")
def get_model(model: str, principal: Reader, session: Reading) -> Model:
    """One model with what inspection found."""
    return models.get(session, principal.tenant, model)


@router.get("/{model}/layers")
def list_model_layers(model: str, principal: Reader, session: Reading) -> ModelLayers:
    """The layer table of a model."""
    return models.layers(session, principal.tenant, model)


@router.head("/{model}/content", include_in_schema=False)
@router.get("/{model}/content", response_class=Response, responses=RESPONSES)
def get_model_content(
    model: str,
    request: Request,
    principal: Reader,
    session: Reading,
    blobs: Storage,
    *,
    filename: Annotated[str | None, Query(description="One of several files; without it they come as a zip.")] = None,
) -> Response:
    """The bytes that were uploaded."""
    found = models.get(session, principal.tenant, model)
    return send(request, found if filename is None else pick(found, filename), blobs)


@router.patch("/{model}")
def update_model(model: str, body: Rename, principal: ModelWriter, session: Writing) -> Model:
    """Change the name or the metadata."""
    return models.rename(session, principal.tenant, model, body)


@router.delete("/{model}", status_code=204)
def delete_model(model: str, principal: ModelWriter, session: Writing) -> None:
    """Delete a model; its jobs and their results stay."""
    models.delete(session, principal.tenant, model)
