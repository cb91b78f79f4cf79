"""One of everything that a tenant can own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from core.database.session import transaction
from core.database.tables import ArtifactRow, DatasetRow, JobRow, ModelRow
from core.description import (
    DatasetDescription,
    DatasetSpec,
    LayerDescription,
    ModelDescription,
    Parity,
    SplitArrays,
    SplitDescription,
    TensorDescription,
)
from core.ids import new_id
from core.resources.job import JobCreate
from core.resources.model import DatasetCreate, ModelCreate
from core.resources.system import KeyCreate
from core.resources.webhook import WebhookCreate
from core.services import datasets, endings, jobs, keys, models, uploads, webhooks
from core.settings import settings
from core.specs.linear import LinearQuantization
from core.specs.recipe import Recipe
from core.states import InspectionState, JobState
from core.storage.blobs import open_blobs

CONTENT = bytes(range(256)) * 40

MODEL = ModelDescription(
    format="onnx",
    inputs=(TensorDescription(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorDescription(name="logits", dtype="float32", shape=("batch", 2)),),
    parameters=10,
    macs=8,
    planned_activation_bytes=24,
    bytes_stripped=100,
    layers=(
        LayerDescription(
            name="fc",
            kind="linear",
            weight_shape=(2, 4),
            output_shape=("batch", 2),
            parameters=10,
            macs=8,
            activation_bytes=8,
        ),
    ),
    operators={"Gemm": 1},
    parity=Parity(max_abs_difference=0, max_abs_output=1, samples=8, reference="onnxruntime"),
)
DATASET = DatasetDescription(
    format="npz",
    task="classification",
    inputs=(TensorDescription(name="x", dtype="float32", shape=("batch", 4)),),
    splits={name: SplitDescription(samples=1000, labelled=True) for name in ("train", "calibration", "evaluation")},
    classes=2,
)


@dataclass(frozen=True)
class World:
    """The ids of one of everything, by the names that paths use."""

    ids: dict[str, str]


def build_world(tenant: str) -> World:
    """Make it through the services; only what workers would do is written directly."""
    sha256 = store(CONTENT)
    with transaction() as session:
        upload = uploads.record(session, tenant, "net.onnx", sha256, len(CONTENT)).id
        used = models.create(session, tenant, ModelCreate(uploads=(upload,))).id
        # A job's own ingredients cannot be deleted; these can.
        model = models.create(session, tenant, ModelCreate(uploads=(upload,))).id
        spec = DatasetSpec(task="classification", splits={"train": SplitArrays(x="x", y="y")})
        asked = DatasetCreate(uploads=(upload,), **dict(spec))
        dataset = datasets.create(session, tenant, asked).id
        for row in (session.get_one(ModelRow, used), session.get_one(ModelRow, model)):
            row.state, row.description = InspectionState.READY, MODEL.model_dump(mode="json")
        data = session.get_one(DatasetRow, dataset)
        data.state, data.description = InspectionState.READY, DATASET.model_dump(mode="json")
        session.flush()
        webhook = webhooks.create(session, tenant, WebhookCreate(url="https://93.184.215.14/hook")).id
        recipe = Recipe(steps=(LinearQuantization(),))
        job = jobs.create(session, tenant, JobCreate(model=used, dataset=dataset, recipe=recipe)).id
        endings.end_job(session, session.get_one(JobRow, job), JobState.CANCELLED)
        artifact = add_artifact(tenant, job, sha256)
        session.add(artifact)
        session.flush()
        delivery = webhooks.deliveries(session, tenant, webhook).data[0]
        key = keys.create(session, tenant, KeyCreate(name="spare")).id
    return World(
        {
            "upload": upload,
            "model": model,
            "dataset": dataset,
            "job": job,
            "artifact": artifact.id,
            "webhook": webhook,
            "delivery": delivery.id,
            "event": delivery.event,
            "key": key,
        }
    )


def add_artifact(tenant: str, job: str, sha256: str) -> ArtifactRow:
    return ArtifactRow(
        id=new_id("art"),
        tenant_id=tenant,
        job_id=job,
        epoch=0,
        kind="model.onnx",
        files=[{"filename": "net int8 ü.onnx", "sha256": sha256, "bytes": len(CONTENT)}],
        sha256=sha256,
        bytes=len(CONTENT),
        state="final",
    )


def store(content: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    blobs = open_blobs(settings().storage_url)
    return asyncio.run(blobs.put_stream(chunks(), limit=len(content), expected_sha256=None))[0]
