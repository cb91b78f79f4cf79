"""The data sets, one data set, the form that adds one, and what is read."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.dashboard import forms
from api.dashboard.new_job import Texts
from api.dashboard.rendering import Done, PageRoute, Seen, View, see
from core.description import DatasetSpec, InputMapping
from core.errors import ModelpressError
from core.resources.model import DatasetCreate
from core.services import datasets

router = APIRouter(route_class=PageRoute)

PAGE_SIZE = 25
SPLITS = ("train", "calibration", "validation", "evaluation")
LAYOUTS = InputMapping.model_json_schema()["properties"]["layout"]["enum"]
TASKS = DatasetSpec.model_json_schema()["properties"]["task"]["enum"]
DEFAULTS = {"task": "classification", "layout": "as_is"}


@router.get("/datasets")
def show_datasets(view: Seen, after: str | None = None) -> Response:
    """The list, newest first, and the upload."""
    return list_page(view, DEFAULTS, after=after)


@router.post("/datasets")
def add_dataset(view: Done, texts: Texts) -> Response:
    """Make a data set of a file that the page has uploaded."""
    view.need("models:write")
    body = request_body(texts)
    try:
        with view.session.begin_nested():
            made = datasets.create(view.session, view.tenant, DatasetCreate.model_validate(body))
        return see(f"/datasets/{made.id}")
    except ValidationError as error:
        return list_page(view, texts, error=forms.refusal(error, body))
    except ModelpressError as error:
        return list_page(view, texts, error=error)


@router.get("/datasets/guide")
def show_guide(view: Seen) -> Response:
    """What is read, with examples: docs/data.md."""
    return view.page("guide.html", {})


@router.get("/datasets/{dataset_id}")
def show_dataset(dataset_id: str, view: Seen) -> Response:
    """One data set: how it is read, and what it holds."""
    return view.page("dataset.html", {"dataset": datasets.get(view.session, view.tenant, dataset_id)})


@router.post("/datasets/{dataset_id}/delete")
def delete_dataset(dataset_id: str, view: Done) -> RedirectResponse:
    """Delete a data set that no unfinished job uses."""
    view.need("models:write")
    datasets.delete(view.session, view.tenant, dataset_id)
    return see("/datasets")


def request_body(texts: Mapping[str, str]) -> dict[str, Any]:
    """The JSON body of `POST /v1/datasets` that the form stands for."""

    def text(name: str) -> str:
        return texts.get(name, "").strip()

    mapping: dict[str, Any] = {"layout": text("layout") or "as_is"}
    mapping |= {"scale": text("scale")} if text("scale") else {}
    mapping |= {
        name: [part for part in text(name).split(",") if part.strip()] for name in ("mean", "std") if text(name)
    }
    splits = {
        split: {"x": text(f"{split}.x")} | ({"y": text(f"{split}.y")} if text(f"{split}.y") else {})
        for split in SPLITS
        if text(f"{split}.x")
    }
    return {
        "uploads": text("upload").split(","),
        "name": text("name") or None,
        "task": text("task"),
        "inputs": {"x": mapping},
        # Without any name the arrays are found by the usual names in the files.
        "splits": splits or None,
    }


def list_page(
    view: View, texts: Mapping[str, str], *, after: str | None = None, error: ModelpressError | None = None
) -> Response:
    """The list with the upload, and with what went wrong with it."""
    page = datasets.list_(view.session, view.tenant, limit=PAGE_SIZE, after=after)
    values = {
        "datasets": page,
        "after": after or "",
        "error": error,
        "texts": texts,
        "splits": SPLITS,
        "layouts": LAYOUTS,
        "tasks": TASKS,
    }
    return view.page("datasets.html", values, status=422 if error else 200)
