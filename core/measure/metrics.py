"""Every number of a verdict as a metric row, with unit and the conditions that it was measured under."""

from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from core.measure.measurement import FileFigures, Measurement
from core.messages import MetricMessage
from core.verdict import Change, Conditions, Measured, TwoConditions, Verdict

Subject = Literal["original", "result", "change"]
Extra = dict[str, JsonValue]

STEP = "measure"
FILE_UNITS = {
    "bytes": "B",
    "bytes_stripped": "B",
    "bytes_xz": "B",
    "parameters": "",
    "macs": "",
    "planned_activation_bytes": "B",
    "load_ms": "ms",
}
QUALITY_UNITS = {"bits_per_token": "bit"}


def list_metrics(verdict: Verdict, measured: Measurement) -> Iterator[MetricMessage]:
    """One row for each number; what bounds a number (interval, count, batch) is in its conditions."""
    where: Extra = {"host_class": verdict.conditions.host_class, "threads": verdict.conditions.threads}
    yield from _of_file("original", verdict.original, measured.original, where)
    yield from _of_file("result", verdict.result, measured.result, where)
    yield from _of_change(verdict.change, where)
    yield from _of_quality(measured)
    yield from _of_conditions(verdict.conditions)
    if verdict.two_conditions is not None:
        yield from _of_two_conditions(verdict.two_conditions, where)
    for name, count in verdict.itemised_bytes.model_dump().items():
        yield _row("result", f"itemised_bytes.{name}", count, unit="B")
    for layer in verdict.layers:
        about: Extra = {"layer": layer.name, "encoding": layer.encoding}
        numbers = {
            "bytes_before": layer.bytes_before,
            "bytes": layer.bytes,
            "share_of_time": layer.share_of_time,
            "loss_increase": layer.sensitivity.loss_increase,
            "sqnr_db": layer.sensitivity.sqnr_db,
        }
        for name, value in numbers.items():
            if value is not None:
                yield _row("result", f"layer.{name}", value, unit="B" if "bytes" in name else "", about=about)


def _of_file(subject: Subject, file: Measured, figures: FileFigures, where: Extra) -> Iterator[MetricMessage]:
    for name, unit in FILE_UNITS.items():
        if (value := getattr(file, name)) is not None:
            yield _row(subject, name, value, unit=unit, about=where)
    memory = figures.memory
    yield _row(
        subject,
        "peak_rss_bytes",
        file.peak_rss_bytes,
        unit="B",
        about={
            **where,
            "batch": memory.batch,
            "spread_bytes": memory.spread_bytes,
            "runtime_bytes": memory.runtime_bytes,
            "planned_bytes": figures.planned_large_bytes,
        },
    )
    if file.quality is not None:
        quality = file.quality
        interval: Extra = {"low": quality.low, "high": quality.high, "n": quality.n}
        yield _row(
            subject,
            quality.metric,
            quality.value,
            unit=QUALITY_UNITS.get(quality.metric, ""),
            about=interval,
            split=quality.split,
        )
    for latency in file.latency:
        about: Extra = {**where, "batch": latency.batch, "runs": latency.runs, "runtime": latency.runtime}
        ends: Extra = {"low": latency.low_ms, "high": latency.high_ms}
        yield _row(subject, "latency_ms", latency.median_ms, unit="ms", about={**about, **ends})
        yield _row(subject, "latency_p95_ms", latency.p95_ms, unit="ms", about=about)


def _of_change(change: Change, where: Extra) -> Iterator[MetricMessage]:
    yield _row("change", "size_ratio", change.size_ratio, unit="×")
    yield _row("change", "size_ratio_fp16", change.size_ratio_fp16, unit="×")
    yield _row("change", "activation_ratio", change.activation_ratio, unit="×")
    for speedup in change.speedup:
        about: Extra = {"batch": speedup.batch, "low": speedup.low, "high": speedup.high}
        yield _row(
            "change", "speedup", speedup.ratio, unit="×", about={**where, **about, "significant": speedup.significant}
        )


def _of_quality(measured: Measurement) -> Iterator[MetricMessage]:
    if measured.quality is None:
        return
    change, split = measured.quality.change, measured.quality.result.split
    about: Extra = {"low": change.low, "high": change.high, "p": change.p, "test": change.test}
    yield _row("change", "quality_delta", change.delta, about=about, split=split)
    numbers = {
        "lost": change.lost,
        "gained": change.gained,
        "agreement": change.agreement,
        "sqnr_db": measured.quality.sqnr_db,
        "divergence": measured.quality.divergence,
    }
    for name, value in numbers.items():
        if value is not None:
            yield _row("change", name, value, unit="dB" if name == "sqnr_db" else "", split=split)
    if measured.quality.token_accuracy is not None:
        before, after = measured.quality.token_accuracy
        yield _row("original", "token_accuracy", before, split=split)
        yield _row("result", "token_accuracy", after, split=split)


def _of_conditions(conditions: Conditions) -> Iterator[MetricMessage]:
    yield _row("change", "noise_floor", conditions.noise_floor)
    yield _row("change", "rss_spread_bytes", conditions.rss_spread_bytes, unit="B")


def _of_two_conditions(conditions: TwoConditions, where: Extra) -> Iterator[MetricMessage]:
    for name, peak in (("gemm", conditions.gemm), ("gemv", conditions.gemv)):
        yield _row(
            "result", f"peak_ratio.{name}", peak.ratio, unit="×", about={**where, "low": peak.low, "high": peak.high}
        )
    yield _row("result", "integer_macs", conditions.integer_macs, about=where)
    yield _row("result", "conversion_share", conditions.conversion_share, about=where)
    yield _row("result", "integer_time", conditions.integer_time, about=where)
    yield _row("result", "integer_rate", conditions.integer_rate, about=where)
    for limit in conditions.limits:
        about: Extra = {**where, "batch": limit.batch, "attainable": limit.attainable, "reached": limit.reached}
        yield _row("result", "speed_ceiling", limit.ceiling, unit="×", about=about)


def _row(
    subject: Subject, name: str, value: float, *, unit: str = "", about: Extra | None = None, split: str | None = None
) -> MetricMessage:
    return MetricMessage(
        name=name, value=value, unit=unit, split=split, subject=subject, step=STEP, conditions=about or {}
    )
