"""A verdict and jobs shaped like real ones, for pages."""

from datetime import UTC, datetime, timedelta
from typing import Any

from core.ids import new_id
from core.resources.job import Artifact, ArtifactFile, Job, Progress, Step
from core.resources.shape import Failure
from core.specs.linear import LinearQuantization
from core.specs.recipe import Constraints, Limits, Recipe, Target
from core.states import JobState, StepState
from core.verdict import Latency, Quality, QualityChange, Speedup, Verdict

MOMENT = datetime(2026, 7, 2, 3, 12, 8, tzinfo=UTC)


def latency(batch: int, median: float, p95: float) -> Latency:
    width = (p95 - median) / 4
    counts = (1, 3, 14, 30, 21, 9, 4, 2, 1)
    return Latency(
        batch=batch,
        median_ms=median,
        p95_ms=p95,
        runs=85,
        low_ms=median * 0.98,
        high_ms=median * 1.02,
        histogram=tuple((median + (index - 3) * width, count) for index, count in enumerate(counts)),
    )


def quality(value: float) -> Quality:
    return Quality(
        metric="accuracy",
        value=value,
        higher_is_better=True,
        low=value - 0.0053,
        high=value + 0.0051,
        n=10_000,
        split="evaluation",
    )


def verdict(**changes: Any) -> Verdict:
    body: dict[str, Any] = {
        "satisfied": True,
        "sentence": "3.8× smaller, 1.5× faster at batch 1, no significant change in accuracy",
        "original": measured(1_733_587, 0.9238, (latency(1, 0.157, 0.171), latency(32, 2.593, 2.710))),
        "result": measured(452_110, 0.9236, (latency(1, 0.104, 0.113), latency(32, 2.063, 2.160))),
        "change": {
            "size_ratio": 3.83,
            "size_ratio_fp16": 1.92,
            "quality": QualityChange(
                delta=-0.0002, low=-0.0011, high=0.0007, p=0.81, test="mcnemar", lost=10, gained=8, agreement=0.9981
            ),
            "speedup": [
                Speedup(batch=1, ratio=1.51, low=1.47, high=1.55, significant=True),
                Speedup(batch=32, ratio=1.26, low=1.23, high=1.28, significant=True),
            ],
            "activation_ratio": 3.7,
        },
        "itemised_bytes": {"weights": 431_080, "scales": 2_280, "graph": 18_750},
        "layers": [
            layer(("conv1", "conv2d", "1→20, 5×5", 0.0003, 41.2, 2_080, 520, 0.11)),
            layer(("conv2", "conv2d", "20→50, 5×5", 0.0011, 36.8, 100_200, 25_050, 0.52)),
            layer(("fc1", "linear", "800→500", 0.0004, 38.1, 1_602_000, 400_500, 0.23)),
            layer(("fc2", "linear", "500→10", None, None, 20_040, 5_010, None)),
        ],
        "findings": [
            {
                "code": "saturation_avoided",
                "severity": "info",
                "text": "This CPU has no VNNI; full-range weights would saturate (accuracy 0.9166), so 7-bit weights "
                "were used.",
            },
            {"code": "calibration_too_small", "severity": "advice", "text": "64 samples calibrate loosely; use 512."},
        ],
        "conditions": {
            "runtime": "onnxruntime 1.32.0",
            "threads": 1,
            "cpu": "AMD EPYC",
            "flags": ["avx2", "fma"],
            "host_class": "x86-avx2",
            "interleaved": True,
            "noise_floor": 0.012,
            "rss_spread_bytes": 1_600_000,
        },
        "reproduce": {
            "recipe_sha256": "c2a95f08d734" + "0" * 52,
            "plan": None,
            "seed": 0,
            "versions": {"modelpress": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0"},
            "artifact_sha256": "9c41e07b5a2f" + "0" * 52,
        },
    }
    return Verdict.model_validate({**body, **changes})


def measured(size: int, accuracy: float, latencies: tuple[Latency, ...]) -> dict[str, Any]:
    return {
        "bytes": size,
        "bytes_stripped": size,
        "bytes_xz": int(size * 0.9),
        "parameters": 431_080,
        "macs": 2_293_000,
        "planned_activation_bytes": size // 30,
        "peak_rss_bytes": 61_000_000,
        "load_ms": 9.1,
        "quality": quality(accuracy),
        "latency": latencies,
    }


LayerRow = tuple[str, str, str, float | None, float | None, int, int, float | None]


def layer(row: LayerRow) -> dict[str, Any]:
    name, kind, shape, loss, sqnr, before, after, share = row
    return {
        "name": name,
        "kind": kind,
        "encoding": "int8",
        "shape": shape,
        "sensitivity": {"loss_increase": loss, "sqnr_db": sqnr},
        "bytes_before": before,
        "bytes": after,
        "share_of_time": share,
    }


def artifact(job: str, kind: str, size: int) -> Artifact:
    sha256 = "9c41e07b5a2f" + "0" * 52
    return Artifact(
        id=new_id("art"),
        created_at=MOMENT,
        job=job,
        kind=kind,
        filename=kind,
        sha256=sha256,
        bytes=size,
        files=(ArtifactFile(filename=kind, sha256=sha256, bytes=size),),
        content_url="/v1/artifacts/art_1/content",
    )


def job(state: JobState = JobState.SUCCEEDED, **changes: Any) -> Job:
    identifier = new_id("job")
    ended = state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    states = {
        JobState.SUCCEEDED: (StepState.SUCCEEDED,) * 4,
        JobState.RUNNING: (StepState.SUCCEEDED, StepState.RUNNING, StepState.PENDING, StepState.PENDING),
        JobState.QUEUED: (StepState.PENDING,) * 4,
        JobState.FAILED: (StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.SKIPPED),
        JobState.CANCELLED: (StepState.SUCCEEDED, StepState.SKIPPED, StepState.SKIPPED, StepState.SKIPPED),
    }[state]
    names = ("prepare", "quantize.linear", "export", "measure")
    body: dict[str, Any] = {
        "id": identifier,
        "created_at": MOMENT,
        "name": "lenet5, 8-bit",
        "metadata": {},
        "state": state,
        "model": new_id("mdl"),
        "model_name": "lenet5",
        "dataset": new_id("dst"),
        "dataset_name": "mnist",
        "methods": ("quantize.linear",),
        "started_at": None if state is JobState.QUEUED else MOMENT,
        "finished_at": MOMENT + timedelta(seconds=27) if ended else None,
        "queue_position": 2 if state is JobState.QUEUED else None,
        "progress": Progress(
            step=1,
            method="quantize.linear",
            fraction=0.42,
            eta_seconds=9,
            step_fraction=0.6,
            step_eta_seconds=4,
            message="calibrating",
        )
        if state is JobState.RUNNING
        else None,
        "error": Failure(
            code="out_of_memory", detail="The runner needed more than 8 GB.", hint="Raise it.", step="quantize.linear"
        )
        if state is JobState.FAILED
        else None,
        "seed": 0,
        "recipe": Recipe(steps=(LinearQuantization(),)),
        "target": Target(),
        "constraints": Constraints(max_drop=0.01),
        "limits": Limits(),
        "attempt": 1,
        "worker_losses": 0,
        "retry_of": None,
        "cancel_requested": False,
        "webhook_url": None,
        "steps": [
            Step(
                id=new_id("stp"),
                position=position,
                name=name,
                state=states[position],
                seconds=1.4 * (position + 1) if states[position] is StepState.SUCCEEDED else None,
                message="",
                quality=None,
            )
            for position, name in enumerate(names)
        ],
        "verdict": verdict() if state is JobState.SUCCEEDED else None,
        "artifacts": [artifact(identifier, "model.onnx", 452_110), artifact(identifier, "report.json", 18_942)]
        if state is JobState.SUCCEEDED
        else [],
    }
    return Job.model_validate({**body, **changes})
