from dataclasses import replace

import pytest

from core.findings import make_finding
from core.measure.costs import Costs
from core.measure.engine import ONNXRUNTIME, OPENVINO, name_runtime
from core.measure.judgement import judge
from core.measure.kernels import Kernel
from core.measure.latency import LatencyComparison
from core.measure.measurement import FileFigures, Measurement, Speed
from core.measure.memory import ProcessMemory
from core.measure.profile import TimeShares
from core.measure.quality import Comparison
from core.measure.size import Size
from core.measure.two_conditions import FloatProducts
from core.measure.words import say_bytes, say_ratio, say_signed, write_sentence
from core.specs.recipe import Constraints
from core.verdict import Change, Latency, PeakRatio, Quality, QualityChange, SpeedLimit, Speedup, TwoConditions

MB = 1_000_000


def figures(stripped=1000, peak=60 * MB, planned=1 * MB):
    memory = ProcessMemory(peak, MB // 2, 49 * MB, 5.0, 32)
    return FileFigures(Size(stripped + 10, stripped, stripped, stripped // 2), Costs(10, 20), 1000, planned, memory)


def quality(value, metric="accuracy", n=10_000):
    better = metric in ("accuracy", "agreement")
    return Quality(
        metric=metric,
        value=value,
        higher_is_better=better,
        low=value - 0.01,
        high=value + 0.01,
        n=n,
        split="evaluation",
    )


def comparison(delta, low, high, p, *, metric="accuracy", n=10_000):
    test = "mcnemar" if metric == "accuracy" else "none" if metric == "agreement" else "bootstrap"
    change = QualityChange(delta=delta, low=low, high=high, p=p, test=test)
    return Comparison(quality(0.9, metric, n), quality(0.9 + delta, metric, n), change, 30.0, None, None)


def timing(ratio, low, high, *, significant, batch=1):
    def latency(ms):
        return Latency(batch=batch, median_ms=ms, p95_ms=ms, runs=50, low_ms=0.9 * ms, high_ms=1.1 * ms)

    speedup = Speedup(batch=batch, ratio=ratio, low=low, high=high, significant=significant)
    return LatencyComparison(latency(1.0), latency(1 / ratio), speedup, 0.02)


FASTER = timing(2.0, 1.9, 2.1, significant=True)
GOOD = Measurement(
    original=figures(4000),
    result=figures(1000, peak=50 * MB),
    quality=comparison(-0.0002, -0.0011, 0.0007, 0.81),
    latency=(FASTER,),
    shares=TimeShares({}, 0.01),
    batch_fixed=None,
    overlap=0,
)


def codes(measured, **limits):
    judgement = judge(measured, Constraints(**limits))
    return judgement.satisfied, [finding.code for finding in judgement.findings]


def text(measured, code, **limits):
    return next(f.text for f in judge(measured, Constraints(**limits)).findings if f.code == code)


def test_a_clean_gain_needs_no_words():
    assert codes(GOOD) == (True, [])
    assert codes(GOOD, max_drop=0.01, max_bytes=2000, max_latency_ms=1) == (True, [])


def test_limits_are_judged_by_measured_values():
    bad = replace(GOOD, quality=comparison(-0.03, -0.035, -0.025, 1e-9))
    assert codes(bad, max_drop=0.01) == (False, ["quality_limit_missed", "quality_drop_significant"])
    assert text(bad, "quality_limit_missed", max_drop=0.01) == "Accuracy fell by 0.0300. The limit is 0.01."
    assert codes(GOOD, max_bytes=1009) == (False, ["size_limit_missed"])
    assert codes(GOOD, max_bytes=1010) == (True, [])
    assert codes(GOOD, max_latency_ms=0.1) == (False, ["latency_limit_missed"])


def test_an_interval_that_crosses_the_limit_is_told_on_both_sides():
    assert codes(GOOD, max_drop=0.0005) == (True, ["limit_within_noise"])
    assert codes(GOOD, max_drop=0.0001) == (False, ["quality_limit_missed", "limit_within_noise"])
    assert codes(GOOD, max_latency_ms=0.52) == (True, ["limit_within_noise"])
    assert codes(GOOD, max_latency_ms=0.48) == (False, ["latency_limit_missed", "limit_within_noise"])


def test_the_bad_direction_depends_on_the_metric():
    worse = replace(GOOD, quality=comparison(0.03, 0.025, 0.035, 0.001, metric="mse"))
    assert codes(worse, max_drop=0.01) == (False, ["quality_limit_missed", "quality_drop_significant"])
    assert "Mean squared error rose by 0.0300" in text(worse, "quality_limit_missed", max_drop=0.01)
    better = replace(GOOD, quality=comparison(-0.03, -0.035, -0.025, 0.001, metric="mse"))
    assert codes(better, max_drop=0.01) == (True, [])
    gained = replace(GOOD, quality=comparison(0.03, 0.025, 0.035, 0.001))
    assert codes(gained, max_drop=0) == (True, [])


def test_a_limit_that_was_not_measured_does_not_hold():
    assert codes(replace(GOOD, quality=None), max_drop=0.01) == (False, ["limit_not_measured", "no_evaluation_data"])
    assert codes(replace(GOOD, quality=None)) == (True, ["no_evaluation_data"])


def test_time_is_faster_or_slower_only_with_significance():
    slower = timing(0.8, 0.75, 0.85, significant=True, batch=32)
    assert codes(replace(GOOD, latency=(FASTER, slower))) == (True, ["slower_than_original"])
    told = text(replace(GOOD, latency=(slower,)), "slower_than_original")
    assert told == (
        "At batch 32 the time went from 1.000 to 1.250 ms: 1.25× slower, 95 % interval 1.18 to 1.33, noise floor 2.0 %."
    )
    for ratio in (0.99, 1.01):
        unclear = timing(ratio, 0.97, 1.03, significant=False)
        assert codes(replace(GOOD, latency=(unclear,))) == (True, ["no_measurable_change"])


def test_a_busy_machine_is_told():
    noisy = replace(GOOD, latency=(FASTER, replace(FASTER, noise_floor=0.53)))
    assert codes(noisy) == (True, ["noisy_host"])
    assert "up to 53 %" in text(noisy, "noisy_host")


def test_a_file_that_grew_is_told_loudly():
    judgement = judge(replace(GOOD, result=figures(5000, peak=50 * MB)), Constraints())
    assert [(f.code, f.severity) for f in judgement.findings] == [("file_grew", "problem")]


@pytest.mark.parametrize(
    ("peak", "planned", "code"),
    [
        (50 * MB, 1 * MB, None),
        (60 * MB + 400_000, 1 * MB, "no_measurable_change"),
        (61 * MB, 1 * MB, "memory_grew"),
        (60 * MB, 2 * MB, "kernel_workspace_dominates"),
        (61 * MB, 2 * MB, "kernel_workspace_dominates"),
        (55 * MB, 2 * MB, None),
    ],
)
def test_memory(peak, planned, code):
    original = figures(4000, planned=8 * MB if planned > MB else MB)
    measured = replace(GOOD, original=original, result=figures(1000, peak=peak, planned=planned))
    assert codes(measured)[1] == ([code] if code else [])


def test_data_that_makes_figures_doubtful():
    small = replace(GOOD, quality=comparison(-0.0002, -0.0011, 0.0007, 0.81, n=300), overlap=3)
    assert set(codes(small)[1]) == {"evaluation_small", "evaluation_overlaps_training"}
    assert "3 of the 300 evaluation samples (1 %)" in text(small, "evaluation_overlaps_training")
    unlabelled = replace(GOOD, quality=comparison(-0.1, -0.11, -0.09, 1.0, metric="agreement"))
    assert codes(unlabelled)[1] == ["no_labels"]
    few = judge(GOOD, Constraints(), calibration_samples=20)
    assert [f.code for f in few.findings] == ["calibration_too_small"]
    assert codes(replace(GOOD, batch_fixed=1))[1] == ["batch_fixed"]
    assert codes(replace(GOOD, shares=TimeShares({}, 0.3)))[1] == ["conversion_overhead"]


def test_findings_of_earlier_steps_are_kept_and_the_worst_come_first():
    given = (make_finding("saturation_avoided", "7-bit weights."), make_finding("file_grew", "It grew."))
    judgement = judge(GOOD, Constraints(), given=given, calibration_samples=5)
    assert [f.severity for f in judgement.findings] == ["problem", "advice", "info"]
    assert judgement.satisfied


@pytest.mark.parametrize("code", ["budget_missed", "pruning_goal_missed"])
def test_a_budget_that_a_step_could_not_keep_to_is_a_limit_that_does_not_hold(code):
    given = (make_finding(code, "With the fewest bits the weights take 5 bytes; the budget is 4."),)
    assert not judge(GOOD, Constraints(), given=given).satisfied


def change(size=3.82, ratio=1.51, significant=True, delta=-0.0002, p=0.81):
    return Change(
        size_ratio=size,
        size_ratio_fp16=size / 2,
        quality=QualityChange(delta=delta, low=delta - 0.001, high=delta + 0.001, p=p, test="mcnemar"),
        speedup=(Speedup(batch=1, ratio=ratio, low=ratio, high=ratio, significant=significant),),
        activation_ratio=0.25,
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (change(), "3.8× smaller, 1.5× faster at batch 1, no significant change in accuracy"),
        (change(size=1.2, ratio=4), "4.0× faster at batch 1, 1.2× smaller, no significant change in accuracy"),
        (change(delta=-0.0367, p=1e-9), "3.8× smaller, 1.5× faster at batch 1, but accuracy fell by 0.0367"),
        (change(delta=0.0123, p=0.01), "3.8× smaller, 1.5× faster at batch 1, accuracy rose by 0.0123"),
        (change(ratio=0.75), "3.8× smaller, but 1.3× slower at batch 1, no significant change in accuracy"),
        (
            change(ratio=1.01, significant=False),
            "3.8× smaller, no measurable change in time at batch 1, no significant change in accuracy",
        ),
        (
            change(size=0.5, ratio=0.5, delta=-0.1, p=0.001),
            "2.0× larger, 2.0× slower at batch 1, accuracy fell by 0.1000",
        ),
        (change(size=1.001), "1.5× faster at batch 1, same size, no significant change in accuracy"),
    ],
)
def test_sentence(given, sentence):
    assert write_sentence(quality(0.92), given) == sentence


def test_sentence_without_quality():
    assert write_sentence(None, change()) == "3.8× smaller, 1.5× faster at batch 1"


def test_numbers_in_words():
    assert [say_bytes(n) for n in (912, 9_999, 61_000_000, 2.5e9)] == ["912 B", "9,999 B", "61.0 MB", "2.5 GB"]
    assert [say_ratio(r) for r in (1.04, 3.82, 12.3)] == ["1.04×", "3.8×", "12×"]
    assert say_signed(-0.0002) == "−0.0002"


def test_a_file_that_was_too_large_for_xz_is_named():
    size = replace(GOOD.original.size, xz=None, stripped=3_000 * MB)
    large = replace(GOOD, original=replace(GOOD.original, size=size))
    (found,) = [finding for finding in judge(large, Constraints()).findings if finding.code == "xz_not_measured"]
    assert "3.0 GB" in found.text
    assert "268.4 MB" in found.text
    assert "xz_not_measured" not in [finding.code for finding in judge(GOOD, Constraints()).findings]


CONDITIONS = TwoConditions(
    gemm=PeakRatio(ratio=3.6, low=3.5, high=3.7),
    gemv=PeakRatio(ratio=2.5, low=2.4, high=2.6),
    integer_macs=0.89,
    conversion_share=0.09,
    integer_time=0.5,
    integer_rate=0.3,
    limits=(SpeedLimit(batch=1, ceiling=3.5, attainable=2.8, reached=0.57),),
)
FLOATS = (FloatProducts("activations", (), 0.08), FloatProducts("no_kernel", ("a", "b", "c", "d", "e"), 0.03))
QUANTIZED = replace(
    GOOD,
    speed=Speed(CONDITIONS, FLOATS),
    shares=TimeShares({}, 0.09, 0.5, {"Softmax": 0.2, "Transpose": 0.15, "Add": 0.06}),
)


def test_both_conditions_are_told_in_one_sentence():
    assert text(QUANTIZED, "two_conditions") == (
        "The result is 2.00× as fast at batch 1 (57 % of the most that integers could give): (1) in "
        f"{name_runtime(ONNXRUNTIME)} this CPU multiplies 8-bit integers 3.6× (3.5 to 3.7) as fast as floats between "
        "matrices and 2.5× (2.4 to 2.6) by single rows, and 89 % of the multiply-adds are of integers, allowing 2.8× "
        "at batch 1; (2) 9 % of the time goes into quantizing and dequantizing and 41 % into float products and other "
        "operators, most in Softmax (20 %) and Transpose (15 %); the integer products take 50 % and run at 30 % of "
        "that peak. In floats stay products of two activations (8 % of "
        "the multiply-adds) and a, b, c, d and 1 more (3 % of the multiply-adds), whose weights are decoded to floats "
        "while the file is loaded, since no integer kernel takes them."
    )
    slower = replace(QUANTIZED, latency=(timing(0.8, 0.75, 0.85, significant=True),))
    assert text(slower, "two_conditions").startswith("The result is 1.25× slower at batch 1: (1) ")
    unclear = replace(QUANTIZED, latency=(timing(1.01, 0.97, 1.03, significant=False),))
    assert text(unclear, "two_conditions").startswith("The result is not measurably faster at batch 1: (1) ")


def test_runtimes_are_compared_where_there_was_a_choice():
    def latency(ms, runtime):
        return Latency(batch=1, median_ms=ms, p95_ms=ms, runs=50, low_ms=ms, high_ms=ms, runtime=runtime)

    chosen = LatencyComparison(
        latency(1.0, "onnxruntime 1"),
        latency(0.5, "openvino 2"),
        FASTER.speedup,
        0.02,
        ((latency(1.2, "openvino 2"),), (latency(0.6, "onnxruntime 1"),)),
    )
    told = text(replace(GOOD, latency=(chosen,), runtime=OPENVINO, asked="auto"), "runtime_chosen")
    assert "at batch 1 the result takes 0.500 ms in openvino 2, 0.600 ms in onnxruntime 1; " in told
    assert told.endswith("at batch 1 the original takes 1.000 ms in onnxruntime 1, 1.200 ms in openvino 2.")
    assert "the only runtime" in text(replace(GOOD, asked="auto"), "runtime_chosen")


@pytest.mark.parametrize(("difference", "found"), [(0.0005, []), (0.02, []), (0.05, ["runtimes_differ"])])
def test_runtimes_that_answer_differently_are_told(difference, found):
    # The result differs from the original by 30 dB, 3.2 %.
    other = replace(GOOD, runtime=OPENVINO, quality=replace(GOOD.quality, runtime_difference=difference))
    assert codes(other)[1] == found


def test_work_space_is_named_with_its_size_and_only_blamed_where_it_explains():
    missing = replace(GOOD, original=figures(4000, planned=8 * MB), result=figures(1000, planned=2 * MB, peak=60 * MB))

    def told(pixels, **changes):
        kernel = Kernel(("conv1",), 1, 1, integer=True, weighted=True, taps=9, pixels=pixels)
        return text(replace(missing, workspace=kernel, **changes), "kernel_workspace_dominates")

    assert told(90_000).endswith(
        "the integer convolution conv1 takes 8 B × 9 taps × 90,000 output pixels = 6.5 MB of work space."
    )
    assert told(1024).endswith("= 73.7 kB of work space, the most of all, which does not explain it.")
    assert "to compile a file" in told(90_000, runtime=OPENVINO)
