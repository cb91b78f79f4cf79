"""Rows that tests start from; each is committed."""

from typing import Any

from core.database.session import transaction
from core.database.tables import DatasetRow, ModelRow
from core.description import (
    INSPECTOR_VERSION,
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
from core.services.attempts import StagedArtifact, StagedArtifactFile, StagedCheckpoint
from core.verdict import (
    Change,
    Conditions,
    ItemisedBytes,
    Latency,
    Measured,
    Quality,
    Reproduce,
    Speedup,
    Verdict,
)

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
            row.inspector_version = INSPECTOR_VERSION
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
            row.inspector_version = INSPECTOR_VERSION
    return dataset.id


def ask(model: str, dataset: str | None, **changes: Any) -> JobCreate:
    body = {"model": model, "dataset": dataset, "recipe": {"steps": [{"method": "quantize.linear"}]}, **changes}
    return JobCreate.model_validate(body)


def make_job(tenant: str, **changes: Any) -> str:
    asked = ask(make_model(tenant), make_dataset(tenant), **changes)
    with transaction() as session:
        return jobs.create(session, tenant, asked).id


def measured(size: int, value: float) -> Measured:
    return Measured(
        bytes=size,
        bytes_stripped=size,
        bytes_xz=size,
        parameters=8790,
        macs=100_000,
        planned_activation_bytes=20_000,
        peak_rss_bytes=50_000_000,
        load_ms=5.0,
        quality=Quality(
            metric="accuracy",
            value=value,
            higher_is_better=True,
            low=value - 0.01,
            high=value,
            n=200,
            split="evaluation",
        ),
        latency=(Latency(batch=1, median_ms=1.0, p95_ms=1.1, runs=50, low_ms=0.9, high_ms=1.1),),
    )


def make_verdict() -> Verdict:
    return Verdict(
        satisfied=True,
        sentence="Four times smaller.",
        original=measured(4000, 0.92),
        result=measured(1000, 0.91),
        change=Change(
            size_ratio=4.0,
            size_ratio_fp16=2.0,
            quality=None,
            speedup=(Speedup(batch=1, ratio=1.5, low=1.4, high=1.6, significant=True),),
            activation_ratio=1.0,
        ),
        itemised_bytes=ItemisedBytes(weights=1000),
        layers=(),
        findings=(),
        conditions=Conditions(
            runtime="onnxruntime", threads=1, cpu="a cpu", flags=(), host_class="x", interleaved=True, noise_floor=0.01
        ),
        reproduce=Reproduce(recipe_sha256=SHA, plan=None, seed=0, versions={}, artifact_sha256=SHA),
    )


def make_artifacts(*kinds: str) -> list[StagedArtifact]:
    file = StagedArtifactFile(filename="model.onnx", sha256=SHA, bytes=1000)
    return [StagedArtifact(kind=kind, files=(file,)) for kind in kinds or ("model.onnx",)]


def make_checkpoint(step: int = 0, *, finished: bool = True, digest: str = SHA) -> StagedCheckpoint:
    file = StagedArtifactFile(filename="steps.json", sha256=digest, bytes=10)
    return StagedCheckpoint(step=step, finished=finished, files=(file,))
