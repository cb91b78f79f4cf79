"""What a job page says of a verdict: four tiles, the lesser numbers, the rows of the layer table."""

from dataclasses import dataclass, replace
from typing import Literal

from api.dashboard import charts, formats
from core.resources.job import Job
from core.verdict import Finding, Latency, LayerVerdict, Quality, QualityChange, Speedup, Verdict

Tone = Literal["ok", "bad", "warn", "plain", "waiting"]

SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class Tile:
    """One number before and after, its judgement, its picture and its small print."""

    title: str
    tone: Tone
    judgement: str
    before: str
    after: str
    before_unit: str = ""
    after_unit: str = ""
    interval: charts.Interval | None = None
    share: float | None = None
    print: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer with its bars in percent of the largest."""

    layer: LayerVerdict
    sensitivity: float | None
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Lesser:
    """A number under the tiles, with a word on it."""

    label: str
    value: str
    remark: str = ""


def tiles(job: Job, *, original_bytes: int | None = None) -> tuple[Tile, ...]:
    """The four tiles of a job; what is not measured yet is a dash."""
    if job.verdict is None:
        return _empty_tiles(job, original_bytes)
    verdict = job.verdict
    after = {latency.batch: latency for latency in verdict.result.latency}
    speedups = {speedup.batch: speedup for speedup in verdict.change.speedup}
    shown = [_size_tile(verdict, job.constraints.max_bytes), _quality_tile(verdict, job.constraints.max_drop)]
    for index, before in enumerate(verdict.original.latency[:2]):
        limit = job.constraints.max_latency_ms if index == 0 else None
        if before.batch in after:
            shown.append(_latency_tile(before, after[before.batch], speedups.get(before.batch), limit))
    if len(shown) == 3:
        shown.append(_activation_tile(verdict))
    return tuple(shown)


def lesser_numbers(verdict: Verdict) -> tuple[Lesser, ...]:
    """One line of numbers that matter less, or that did not change."""
    before, after = verdict.original, verdict.result
    spread = max(verdict.conditions.rss_spread_bytes, 0)
    moved = abs(after.peak_rss_bytes - before.peak_rss_bytes)
    rows = [
        Lesser(
            "Peak activations",
            f"{formats.grouped(before.planned_activation_bytes)} → {formats.grouped(after.planned_activation_bytes)} B",
        ),
        Lesser(
            "Resident memory",
            f"{formats.short_size(before.peak_rss_bytes)} → {formats.short_size(after.peak_rss_bytes)}",
            "no measurable change" if moved <= spread else "",
        ),
        Lesser("Load time", f"{formats.milliseconds(before.load_ms)} → {formats.milliseconds(after.load_ms)} ms"),
        _kept("Parameters", before.parameters, after.parameters),
        _kept("MACs", before.macs, after.macs),
    ]
    change = verdict.change.quality
    if change is not None and change.agreement is not None:
        rows.append(Lesser("Same answer on", f"{100 * change.agreement:.2f} %", "of samples"))
    return tuple(rows)


def layer_rows(verdict: Verdict) -> tuple[LayerRow, ...]:
    """The layer table, in the order of the network."""
    most = max((abs(layer.sensitivity.loss_increase or 0) for layer in verdict.layers), default=0)
    largest = max((layer.bytes_before for layer in verdict.layers), default=0)

    def share(part: float, whole: float) -> float:
        return round(100 * max(0.0, part) / whole, 2) if whole > 0 else 0.0

    return tuple(
        LayerRow(
            layer=layer,
            sensitivity=None
            if layer.sensitivity.loss_increase is None
            else share(layer.sensitivity.loss_increase, most),
            before=share(layer.bytes_before, largest),
            after=share(layer.bytes, largest),
        )
        for layer in verdict.layers
    )


def layers_sentence(verdict: Verdict) -> str:
    """What to take away from the layer table."""
    rated = [layer for layer in verdict.layers if layer.sensitivity.loss_increase is not None]
    said = []
    if rated:
        worst = max(rated, key=lambda layer: layer.sensitivity.loss_increase or 0)
        time = "" if worst.share_of_time is None else f" and takes {formats.percent(worst.share_of_time)} of the time"
        said.append(f"{worst.name} is the most sensitive{time}.")
    total = sum(layer.bytes for layer in verdict.layers)
    if total:
        largest = max(verdict.layers, key=lambda layer: layer.bytes)
        said.append(f"{largest.name} holds {formats.percent(largest.bytes / total)} of the bytes.")
    if any(layer.shape_before for layer in verdict.layers):
        said.append("plan.json says which outputs of each layer stayed.")
    return " ".join(said)


def ordered_findings(verdict: Verdict) -> tuple[Finding, ...]:
    """Problems, then advice, then notes."""
    order = {"problem": 0, "advice": 1, "info": 2}
    return tuple(sorted(verdict.findings, key=lambda finding: order[finding.severity]))


def _kept(label: str, before: int, after: int) -> Lesser:
    if before == after:
        return Lesser(label, formats.grouped(before), "same")
    return Lesser(label, f"{formats.grouped(before)} → {formats.grouped(after)}")


def _after_xz(before: int | None, after: int | None) -> str:
    if after is None:
        return "Too large for xz"
    return (
        f"After xz {formats.grouped(after)}"
        if before is None
        else (f"After xz {formats.grouped(before)} → {formats.grouped(after)}")
    )


def _size_tile(verdict: Verdict, limit: int | None) -> Tile:
    before, after = verdict.original, verdict.result
    value, unit = formats.size(before.bytes)
    new_value, new_unit = formats.size(after.bytes)
    tone, judgement = _size_judgement(verdict.change.size_ratio)
    if limit is not None and after.bytes > limit:
        tone, judgement = "bad", "Over the limit"
    second = _after_xz(before.bytes_xz, after.bytes_xz)
    return Tile(
        title="Size on disk",
        tone=tone,
        judgement=judgement,
        before=value,
        before_unit=unit,
        after=new_value,
        after_unit=new_unit,
        share=round(min(100.0, 100 * after.bytes / max(before.bytes, 1)), 2),
        print=(
            f"{formats.grouped(before.bytes)} → {formats.grouped(after.bytes)} B",
            second if limit is None else f"{second}. Limit {formats.grouped(limit)}",
        ),
    )


def size_words(ratio: float) -> str:
    """A size ratio as the list writes it."""
    return _size_judgement(ratio)[1]


def _size_judgement(ratio: float) -> tuple[Tone, str]:
    if ratio >= 1.005:
        return "ok", f"{formats.ratio(ratio)}× smaller"
    if ratio <= 0.995:
        return "bad", f"{formats.ratio(1 / ratio)}× larger"
    return "plain", "Same"


def _quality_tile(verdict: Verdict, max_drop: float | None) -> Tile:
    before, after, change = verdict.original.quality, verdict.result.quality, verdict.change.quality
    if before is None or after is None or change is None:
        return Tile("Quality", "plain", "Not measured", formats.DASH, formats.DASH, print=("No evaluation data",))
    limit = None if max_drop is None else before.value + (-max_drop if before.higher_is_better else max_drop)
    tone, judgement = _quality_judgement(before, after, change, limit)
    tested = f"{formats.signed(change.delta)} (95 % {formats.signed(change.low)} to {formats.signed(change.high)})"
    counts = "" if change.lost is None else f"{change.lost} lost, {change.gained} gained, "
    chance = "" if change.test == "none" else f"p = {change.p:.2g}, "
    second = f"{counts}{chance}n = {formats.grouped(after.n)}"
    return Tile(
        title=quality_title(before.metric),
        tone=tone,
        judgement=judgement,
        before=formats.fraction(before.value),
        after=formats.fraction(after.value),
        interval=charts.quality_interval(before, after, limit),
        print=(tested, second if limit is None else f"{second}. Limit {formats.fraction(limit)}"),
    )


def quality_title(metric: str) -> str:
    """A metric's name as a title: `top5_accuracy` → Top5 accuracy."""
    return metric.replace("_", " ").capitalize()


def _quality_judgement(before: Quality, after: Quality, change: QualityChange, limit: float | None) -> tuple[Tone, str]:
    sign = 1 if before.higher_is_better else -1
    if limit is not None and sign * (after.value - limit) < 0:
        return "bad", "Below the limit" if before.higher_is_better else "Above the limit"
    if change.test == "none":
        return "plain", "Compared with the original"
    if change.p >= SIGNIFICANCE or change.low <= 0 <= change.high:
        return "plain", "No significant change"
    return ("ok", "Significantly better") if sign * change.delta > 0 else ("warn", "Significantly worse")


def _latency_tile(before: Latency, after: Latency, speedup: Speedup | None, limit: float | None) -> Tile:
    tone, judgement = _speed_judgement(speedup)
    if limit is not None and after.median_ms > limit:
        tone, judgement = "bad", "Over the limit"
    second = "" if speedup is None else f"Ratio {speedup.low:.2f}–{speedup.high:.2f} with 95 % confidence"
    return Tile(
        title=f"Latency, batch {before.batch}",
        tone=tone,
        judgement=judgement,
        before=formats.milliseconds(before.median_ms),
        after=formats.milliseconds(after.median_ms),
        after_unit="ms",
        interval=charts.latency_interval(before, after, limit),
        print=(
            f"p95 {formats.milliseconds(before.p95_ms)} → {formats.milliseconds(after.p95_ms)} ms, "
            f"{after.runs} runs each",
            second if limit is None else f"{second}. Limit {formats.milliseconds(limit)} ms",
            *_say_runtimes(before, after),
        ),
    )


def _say_runtimes(before: Latency, after: Latency) -> tuple[str, ...]:
    """A line where original and result are fastest in different runtimes."""
    if before.runtime == after.runtime:
        return ()
    return (f"Original in {before.runtime}, result in {after.runtime}",)


def _speed_judgement(speedup: Speedup | None) -> tuple[Tone, str]:
    if speedup is None or not speedup.significant:
        return "plain", "No measurable change"
    if speedup.ratio >= 1:
        return "ok", f"{formats.ratio(speedup.ratio)}× faster"
    return "bad", f"{formats.ratio(1 / speedup.ratio)}× slower"


def speed_word(speedup: Speedup | None) -> str:
    """The judgement of one batch size, as the latency table writes it."""
    return _speed_judgement(speedup)[1]


def _activation_tile(verdict: Verdict) -> Tile:
    before, after = verdict.original.planned_activation_bytes, verdict.result.planned_activation_bytes
    value, unit = formats.size(before)
    new_value, new_unit = formats.size(after)
    tone, judgement = _size_judgement(verdict.change.activation_ratio)
    return Tile(
        title="Peak activations",
        tone=tone,
        judgement=judgement,
        before=value,
        before_unit=unit,
        after=new_value,
        after_unit=new_unit,
        share=round(min(100.0, 100 * after / max(before, 1)), 2),
        print=(f"{formats.grouped(before)} → {formats.grouped(after)} B",),
    )


def _empty_tiles(job: Job, original_bytes: int | None) -> tuple[Tile, ...]:
    waiting = Tile("", "waiting", "Not yet", formats.DASH, formats.DASH)
    size = replace(waiting, title="Size on disk")
    if original_bytes is not None:
        value, unit = formats.size(original_bytes)
        size = replace(
            size, before=value, before_unit=unit, share=0.0, print=(f"{formats.grouped(original_bytes)} B before",)
        )
    batches = job.target.batch_sizes[:2]
    latencies = [replace(waiting, title=f"Latency, batch {batch}", after_unit="ms") for batch in batches]
    rest = [replace(waiting, title="Peak activations")] if len(batches) == 1 else []
    return (size, replace(waiting, title="Quality"), *latencies, *rest)
