"""From two files to a verdict: measure, judge, and say it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.data.dataset import Dataset
from core.measure.engine import name_runtime
from core.measure.host import describe_host
from core.measure.judgement import judge
from core.measure.measurement import FileFigures, Measurement, Pair, Progress, measure
from core.measure.metrics import list_metrics
from core.measure.size import itemise_bytes
from core.measure.words import write_sentence
from core.messages import MetricMessage
from core.specs.recipe import Constraints, Target
from core.verdict import (
    Change,
    Conditions,
    Finding,
    Latency,
    LayerVerdict,
    Measured,
    Quality,
    Reproduce,
    Verdict,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureRequest:
    """What is to be measured. `original` is ONNX also when a `.pt2` of `original_bytes` was uploaded.

    `layers` and `findings` come from the pipeline, `calibration_samples` is how many a step used; the runs are timed
    ones of each file at each batch size, and `sizes` has by name what stands for other free sizes without data.
    """

    original: Path
    original_bytes: int
    result: Path
    dataset: Dataset | None
    target: Target
    constraints: Constraints
    layers: tuple[LayerVerdict, ...]
    reproduce: Reproduce
    lock_path: Path
    findings: tuple[Finding, ...] = ()
    calibration_samples: int | None = None
    runs: int = 50
    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)


def measure_and_judge(
    request: MeasureRequest,
    *,
    emit: Callable[[MetricMessage], None],
    progress: Progress,
) -> Verdict:
    """The verdict, every number of which is also emitted as a metric; raises `runtime_failed`, `non_finite`.

    `progress` is told a fraction from 0 to 1 and what is being done; what it raises stops the measurement.
    """
    pair = Pair(
        original=request.original,
        result=request.result,
        dataset=request.dataset,
        target=request.target,
        encodings={layer.name: layer.encoding for layer in request.layers},
        lock_path=request.lock_path,
        runs=request.runs,
        seed=request.seed,
        sizes=request.sizes,
    )
    measured = measure(pair, progress)
    judgement = judge(
        measured, request.constraints, given=request.findings, calibration_samples=request.calibration_samples
    )
    quality, change = measured.quality, _describe_change(measured)
    verdict = Verdict(
        satisfied=judgement.satisfied,
        sentence=write_sentence(quality.result if quality else None, change),
        original=_describe_file(
            measured.original,
            quality.original if quality else None,
            tuple(latency.original for latency in measured.latency),
            disk=request.original_bytes,
        ),
        result=_describe_file(
            measured.result,
            quality.result if quality else None,
            tuple(latency.result for latency in measured.latency),
            disk=measured.result.size.disk,
        ),
        change=change,
        itemised_bytes=itemise_bytes(request.result),
        layers=tuple(
            layer.model_copy(update={"share_of_time": measured.shares.layers[layer.name]}) for layer in request.layers
        ),
        findings=judgement.findings,
        two_conditions=measured.speed.conditions if measured.speed else None,
        conditions=_describe_conditions(measured, request.target),
        reproduce=request.reproduce,
    )
    for row in list_metrics(verdict, measured):
        emit(row)
    progress(1.0, verdict.sentence)
    return verdict


def _describe_file(
    figures: FileFigures, quality: Quality | None, latency: tuple[Latency, ...], *, disk: int
) -> Measured:
    return Measured(
        bytes=disk,
        bytes_stripped=figures.size.stripped,
        bytes_xz=figures.size.xz,
        parameters=figures.costs.parameters,
        macs=figures.costs.macs,
        planned_activation_bytes=figures.planned_bytes,
        peak_rss_bytes=figures.memory.peak_rss_bytes,
        load_ms=figures.memory.load_ms,
        quality=quality,
        latency=latency,
    )


def _describe_change(measured: Measurement) -> Change:
    original, result = measured.original, measured.result
    return Change(
        size_ratio=original.size.stripped / result.size.stripped,
        size_ratio_fp16=original.size.fp16 / result.size.stripped,
        quality=measured.quality.change if measured.quality else None,
        speedup=tuple(latency.speedup for latency in measured.latency),
        activation_ratio=result.planned_bytes / max(original.planned_bytes, 1),
        sqnr_db=measured.quality.sqnr_db if measured.quality else None,
    )


def _describe_conditions(measured: Measurement, target: Target) -> Conditions:
    host = describe_host()
    return Conditions(
        runtime=name_runtime(measured.runtime),
        threads=target.threads,
        cpu=host.cpu,
        flags=host.flags,
        host_class=host.host_class,
        interleaved=True,
        noise_floor=max(latency.noise_floor for latency in measured.latency),
        rss_spread_bytes=max(measured.original.memory.spread_bytes, measured.result.memory.spread_bytes),
    )
