"""Rows that tests start from; each is committed."""

from typing import Any

from core.database.session import transaction
from core.database.tables import DatasetRow, ModelRow
from core.description import (
    DatasetDescription,
    LayerDescription,
    ModelDescription,
    Parity,
    SplitDescription,
    TensorDescription,
)
from core.resources.job import JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.services import datasets, jobs, models, uploads

SHA = "ab" * 32


def layer(name: str, kind: str, weight: tuple[int, ...]) -> LayerDescription:
    parameters = 1
    for size in weight:
        parameters *= size
    return LayerDescription(
        name=name,
        kind=kind,
        weight_shape=weight,
        output_shape=("batch", weight[0]),
        parameters=parameters,
        macs=parameters,
        activation_bytes=4 * weight[0],
    )


def described_model(**changes: Any) -> ModelDescription:
    layers = (layer("conv1", "conv2d", (6, 1, 5, 5)), layer("fc1", "linear", (10, 864)))
    description = ModelDescription(
        format="onnx",
        inputs=(TensorDescription(name="x", dtype="float32", shape=("batch", 1, 28, 28)),),
        outputs=(TensorDescription(name="logits", dtype="float32", shape=("batch", 10)),),
        parameters=sum(entry.parameters for entry in layers),
        macs=100_000,
        planned_activation_bytes=20_000,
        bytes_stripped=36_000,
        layers=layers,
        operators={"Conv": 1, "Gemm": 1},
        parity=Parity(max_abs_difference=0, max_abs_output=1, samples=8, reference="onnxruntime"),
    )
    return description.model_copy(update=changes)


def described_dataset(shape: tuple[int | str, ...] = ("batch", 1, 28, 28), **changes: Any) -> DatasetDescription:
    description = DatasetDescription(
        format="npz",
        task="classification",
        inputs=(TensorDescription(name="x", dtype="float32", shape=shape),),
        splits={
            "train": SplitDescription(samples=500, labelled=True),
            "evaluation": SplitDescription(samples=200, labelled=True),
        },
        classes=10,
    )
    return description.model_copy(update=changes)


def make_upload(tenant: str, filename: str = "net.onnx") -> str:
    with transaction() as session:
        return uploads.record(session, tenant, filename, SHA, 1000).id


def make_model(tenant: str, description: ModelDescription | None = None, *, ready: bool = True) -> str:
    upload = make_upload(tenant)
    with transaction() as session:
        model = models.create(session, tenant, ModelCreate(uploads=(upload,), name="net"))
        if ready:
            row = session.get_one(ModelRow, model.id)
            row.state = "ready"
            row.description = (description or described_model()).model_dump(mode="json")
            row.inspector_version = 1
    return model.id


def make_dataset(tenant: str, description: DatasetDescription | None = None, *, ready: bool = True) -> str:
    upload = make_upload(tenant, "mnist.npz")
    asked = {"uploads": [upload], "task": "classification", "splits": {"train": {"x": "x", "y": "y"}}}
    with transaction() as session:
        dataset = datasets.create(session, tenant, DatasetCreate.model_validate(asked))
        if ready:
            row = session.get_one(DatasetRow, dataset.id)
            row.state = "ready"
            row.description = (description or described_dataset()).model_dump(mode="json")
            row.inspector_version = 1
    return dataset.id


def ask(model: str, dataset: str | None, **changes: Any) -> JobCreate:
    body = {"model": model, "dataset": dataset, "recipe": {"steps": [{"method": "quantize.linear"}]}, **changes}
    return JobCreate.model_validate(body)


def make_job(tenant: str, **changes: Any) -> str:
    asked = ask(make_model(tenant), make_dataset(tenant), **changes)
    with transaction() as session:
        return jobs.create(session, tenant, asked).id
