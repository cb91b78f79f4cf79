"""What a measurement means: findings in plain sentences, and whether the limits hold."""

from collections.abc import Iterator
from dataclasses import dataclass

from core.findings import make_finding
from core.measure.latency import LatencyComparison
from core.measure.measurement import Measurement
from core.measure.size import MOST_FOR_XZ
from core.measure.speed_judgement import judge_runtime, judge_speed, say_workspace
from core.measure.words import METRIC_NAMES, drop, is_significant, say_bytes, say_p, say_signed
from core.specs.recipe import Constraints
from core.verdict import Finding

FEW_EVALUATION_SAMPLES = 1000
FEW_CALIBRATION_SAMPLES = 100
# Noise floor that a machine without other work stays below.
NOISY = 0.1
# Quantize and dequantize nodes may take this share of the time.
CONVERSION_SHARE = 0.15
# Planned memory fell by this factor, the measured one by less than this share of what was planned.
PLANNED_FALL = 0.7
MEASURED_SHARE = 0.5
SEVERITIES = ("problem", "advice", "info")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether every limit holds by its measured value, and all that there is to say, worst first."""

    satisfied: bool
    findings: tuple[Finding, ...]


def judge(
    measured: Measurement,
    constraints: Constraints,
    *,
    given: tuple[Finding, ...] = (),
    calibration_samples: int | None = None,
) -> Judgement:
    """Findings on limits, time, size, memory and quality, joined with those that earlier steps gave."""
    limits = [*_judge_drop(measured, constraints), *_judge_bytes(measured, constraints)]
    limits += _judge_latency_limit(measured, constraints)
    missed = any(finding.code != "limit_within_noise" for finding in limits)
    # A step knows best that its own budget could not be kept to.
    missed |= any(finding.code in ("budget_missed", "pruning_goal_missed") for finding in given)
    findings = [
        *limits,
        *(finding for latency in measured.latency for finding in _judge_time(latency)),
        *judge_speed(measured),
        *judge_runtime(measured),
        *_judge_noise(measured),
        *_judge_size(measured),
        *_judge_memory(measured),
        *_judge_quality(measured),
        *_judge_data(measured, calibration_samples),
        *given,
    ]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Judgement(not missed, tuple(findings))


def _judge_drop(measured: Measurement, constraints: Constraints) -> Iterator[Finding]:
    limit = constraints.max_drop
    if limit is None:
        return
    if measured.quality is None:
        yield make_finding("limit_not_measured", f"The limit of {limit} for the drop could not be judged without data.")
        return
    change, result = measured.quality.change, measured.quality.result
    lost = drop(result, change.delta)
    ends = sorted((drop(result, change.low), drop(result, change.high)))
    name = METRIC_NAMES[result.metric]
    if lost > limit:
        moved = "fell" if result.higher_is_better else "rose"
        yield make_finding("quality_limit_missed", f"{_capital(name)} {moved} by {lost:.4f}. The limit is {limit:g}.")
    if ends[0] < limit < ends[1]:
        yield make_finding(
            "limit_within_noise",
            f"The loss of {name} is {say_signed(lost)}, its 95 % interval from {say_signed(ends[0])} to "
            f"{say_signed(ends[1])} contains the limit of {limit:g}.",
        )


def _judge_bytes(measured: Measurement, constraints: Constraints) -> Iterator[Finding]:
    limit, size = constraints.max_bytes, measured.result.size.disk
    if limit is not None and size > limit:
        yield make_finding("size_limit_missed", f"The file has {size:,} bytes. The limit is {limit:,}.")


def _judge_latency_limit(measured: Measurement, constraints: Constraints) -> Iterator[Finding]:
    limit = constraints.max_latency_ms
    if limit is None:
        return
    latency = measured.latency[0].result
    if latency.median_ms > limit:
        yield make_finding(
            "latency_limit_missed",
            f"The median at batch {latency.batch} is {latency.median_ms:.3f} ms. The limit is {limit:g} ms.",
        )
    if latency.low_ms < limit < latency.high_ms:
        yield make_finding(
            "limit_within_noise",
            f"The median at batch {latency.batch} is {latency.median_ms:.3f} ms with a 95 % interval from "
            f"{latency.low_ms:.3f} to {latency.high_ms:.3f} ms, which contains the limit of {limit:g} ms.",
        )


def _judge_time(latency: LatencyComparison) -> Iterator[Finding]:
    speedup, before, after = latency.speedup, latency.original.median_ms, latency.result.median_ms
    moved = f"At batch {speedup.batch} the time went from {before:.3f} to {after:.3f} ms"
    if not speedup.significant:
        yield make_finding(
            "no_measurable_change",
            f"{moved}; the ratio's 95 % interval is {speedup.low:.2f} to {speedup.high:.2f} and the noise floor is "
            f"{100 * latency.noise_floor:.1f} %.",
        )
    elif speedup.ratio < 1:
        yield make_finding(
            "slower_than_original",
            f"{moved}: {1 / speedup.ratio:.2f}× slower, 95 % interval {1 / speedup.high:.2f} to {1 / speedup.low:.2f}, "
            f"noise floor {100 * latency.noise_floor:.1f} %.",
        )


def _judge_noise(measured: Measurement) -> Iterator[Finding]:
    worst = max(measured.latency, key=lambda latency: latency.noise_floor)
    if worst.noise_floor > NOISY:
        yield make_finding(
            "noisy_host",
            f"At batch {worst.speedup.batch} the original timed against itself differs by up to "
            f"{100 * worst.noise_floor:.0f} %, so other work disturbed the timing.",
        )


def _judge_size(measured: Measurement) -> Iterator[Finding]:
    before, after = measured.original.size.stripped, measured.result.size.stripped
    if after > before:
        yield make_finding(
            "file_grew", f"The file went from {before:,} to {after:,} bytes, both without source paths and traces."
        )
    left_out = [size for size in (measured.original.size, measured.result.size) if size.xz is None]
    if left_out:
        yield make_finding(
            "xz_not_measured",
            f"A file of {say_bytes(left_out[0].stripped)} is not compressed by xz: that is done up to "
            f"{say_bytes(MOST_FOR_XZ)}, since it takes minutes for each gigabyte.",
        )
    if measured.shares.conversions > CONVERSION_SHARE:
        yield make_finding(
            "conversion_overhead",
            f"{100 * measured.shares.conversions:.0f} % of the result's time goes into QuantizeLinear and "
            f"DequantizeLinear nodes; {100 * CONVERSION_SHARE:.0f} % or less is usual.",
        )


def _judge_memory(measured: Measurement) -> Iterator[Finding]:
    before, after = measured.original.memory, measured.result.memory
    spread = max(before.spread_bytes, after.spread_bytes)
    saved = before.peak_rss_bytes - after.peak_rss_bytes
    moved = f"went from {say_bytes(before.peak_rss_bytes)} to {say_bytes(after.peak_rss_bytes)} at batch {after.batch}"
    planned_before, planned_after = measured.original.planned_large_bytes, measured.result.planned_large_bytes
    planned_saved = planned_before - planned_after
    if (
        planned_after <= PLANNED_FALL * planned_before
        and planned_saved > spread
        and saved < MEASURED_SHARE * planned_saved
    ):
        yield make_finding(
            "kernel_workspace_dominates",
            f"Planned tensor memory went from {say_bytes(planned_before)} to {say_bytes(planned_after)}, but resident "
            f"memory {moved}, with a run-to-run spread of {say_bytes(spread)}: "
            f"{say_workspace(measured, planned_saved - saved)}.",
        )
    elif abs(saved) <= spread:
        yield make_finding(
            "no_measurable_change",
            f"Resident memory {moved}, inside the run-to-run spread of {say_bytes(spread)}. The runtime itself takes "
            f"{say_bytes(after.runtime_bytes)} of it.",
        )
    elif saved < 0:
        yield make_finding(
            "memory_grew", f"Resident memory {moved}, more than the run-to-run spread of {say_bytes(spread)}."
        )


def _judge_quality(measured: Measurement) -> Iterator[Finding]:
    if measured.quality is None:
        yield make_finding(
            "no_evaluation_data", "The quality was not measured, because there is no data set with an evaluation split."
        )
        return
    before, after, change = measured.quality.original, measured.quality.result, measured.quality.change
    name = METRIC_NAMES[after.metric]
    if measured.synthetic:
        yield make_finding(
            "synthetic_data_only",
            f"No data was given: on {after.n:,} inputs that were drawn the {name} is {after.value:.4f} (95 % interval "
            f"{after.low:.4f} to {after.high:.4f}). How good the result is on real samples is not known."
            + (f" Assumed: {measured.assumed}." if measured.assumed else ""),
        )
    elif change.test == "none":
        yield make_finding(
            "no_labels",
            f"The {after.n:,} evaluation samples have no labels: the result is compared with the original, "
            f"{name} {after.value:.4f} (95 % interval {after.low:.4f} to {after.high:.4f}).",
        )
    elif is_significant(change) and drop(after, change.delta) > 0:
        moved = "fell" if after.higher_is_better else "rose"
        yield make_finding(
            "quality_drop_significant",
            f"{_capital(name)} {moved} from {before.value:.4f} to {after.value:.4f}: {say_signed(change.delta)}, 95 % "
            f"interval {say_signed(change.low)} to {say_signed(change.high)}, {say_p(change.p)}.",
        )


def _judge_data(measured: Measurement, calibration_samples: int | None) -> Iterator[Finding]:
    if measured.quality is not None:
        result, n = measured.quality.result, measured.quality.result.n
        # A window of text holds many tokens, so its count says little.
        if n < FEW_EVALUATION_SAMPLES and result.metric in ("accuracy", "agreement"):
            yield make_finding(
                "evaluation_small",
                f"With {n:,} evaluation samples the {METRIC_NAMES[result.metric]} is known from {result.low:.3f} to "
                f"{result.high:.3f} only.",
            )
        if measured.overlap:
            yield make_finding(
                "evaluation_overlaps_training",
                f"{measured.overlap:,} of the {n:,} evaluation samples ({100 * measured.overlap / n:.2g} %) are also "
                "in another split, so the measured quality is too good.",
            )
    if calibration_samples is not None and calibration_samples < FEW_CALIBRATION_SAMPLES:
        yield make_finding(
            "calibration_too_small",
            f"{calibration_samples:,} calibration samples were used; {FEW_CALIBRATION_SAMPLES} or more are usual.",
        )
    if measured.batch_fixed is not None:
        yield make_finding(
            "batch_fixed", f"The model runs at batch {measured.batch_fixed} only, so only that was timed."
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
