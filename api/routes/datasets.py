"""`/v1/datasets`."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.deps import ModelWriter, Reader, Reading, Writing
from api.idempotency import Idempotent
from api.queries import InspectedPaging
from core.resources.model import Dataset, DatasetCreate, DatasetSummary, Rename
from core.resources.shape import Page
from core.services import datasets

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("", status_code=202, response_model=Dataset)
def create_dataset(body: DatasetCreate, principal: ModelWriter, once: Idempotent) -> Response:
    """Make a data set of uploaded files; it is inspected, then `ready` or `rejected`."""
    return once.answer(
        lambda: datasets.create(once.session, principal.tenant, body), status=202, location="/v1/datasets/{id}"
    )


@router.get("")
def list_datasets(
    query: Annotated[InspectedPaging, Query()], principal: Reader, session: Reading
) -> Page[DatasetSummary]:
    """The data sets, newest first."""
    return datasets.list_(session, principal.tenant, limit=query.limit, after=query.after, state=query.state)


@router.get("/{dataset}")
def get_dataset(dataset: str, principal: Reader, session: Reading) -> Dataset:
    """One data set with what inspection found."""
    return datasets.get(session, principal.tenant, dataset)


@router.patch("/{dataset}")
def update_dataset(dataset: str, body: Rename, principal: ModelWriter, session: Writing) -> Dataset:
    """Change the name or the metadata."""
    return datasets.rename(session, principal.tenant, dataset, body)


@router.delete("/{dataset}", status_code=204)
def delete_dataset(dataset: str, principal: ModelWriter, session: Writing) -> None:
    """Delete a data set; its jobs and their results stay."""
    datasets.delete(session, principal.tenant, dataset)
