"""What the figures of speed mean, in plain sentences: the two conditions, the runtimes, the work space of kernels."""

from collections.abc import Iterator

from core.findings import make_finding
from core.measure.engine import ONNXRUNTIME, name_runtime
from core.measure.measurement import Measurement
from core.measure.two_conditions import FloatProducts
from core.measure.words import say_bytes, say_list, say_ratio
from core.verdict import Finding, Latency, PeakRatio, SpeedLimit, Speedup

# Work space explains what memory did not fall by where it is at least this share of it.
EXPLAINS = 0.25
# Shares that are worth a word.
NOTABLE = 0.05
NOTABLE_PRODUCTS = 0.01
MOST_NAMED = 4
MOST_OPERATORS = 2
# Runtimes whose answers are closer than this, relative to their size, compute the same.
SAME_ANSWERS = 1e-3
REASONS = {
    "float_weight": "whose weights are stored as floats",
    "no_kernel": "whose weights are decoded to floats while the file is loaded, since no integer kernel takes them",
}


def judge_speed(measured: Measurement) -> Iterator[Finding]:
    """Both conditions of a faster quantized network, where something computes in integers."""
    if measured.speed is None:
        return
    conditions = measured.speed.conditions
    times = say_list(
        _say_speedup(latency.speedup, limit) for latency, limit in zip(measured.latency, conditions.limits, strict=True)
    )
    allowed = say_list(f"{say_ratio(limit.attainable)} at batch {limit.batch}" for limit in conditions.limits)
    sentence = (
        f"The result is {times}: (1) in {name_runtime(measured.runtime)} this CPU multiplies 8-bit integers "
        f"{_say_peak(conditions.gemm)} as fast as floats between matrices and {_say_peak(conditions.gemv)} by single "
        f"rows, and {_say_share(conditions.integer_macs)} of the multiply-adds are of integers, allowing {allowed}; "
        f"(2) {_say_share(conditions.conversion_share)} of the time goes into quantizing and dequantizing"
        f"{_say_others(measured)}; the integer products take {_say_share(conditions.integer_time)} and run at "
        f"{_say_share(conditions.integer_rate)} of that peak."
    )
    stay = [_say_products(products) for products in measured.speed.float_products if products.share > NOTABLE_PRODUCTS]
    yield make_finding("two_conditions", sentence + (f" In floats stay {say_list(stay)}." if stay else ""))


def judge_runtime(measured: Measurement) -> Iterator[Finding]:
    """Which runtime was taken where there was a choice, and whether its answers are those of onnxruntime."""
    chosen = name_runtime(measured.runtime)
    told = []
    for latency in measured.latency:
        originals, results = latency.others
        if results:
            told.append(f"at batch {latency.result.batch} the result takes {_say_times(latency.result, results)}")
        if originals:
            told.append(f"at batch {latency.result.batch} the original takes {_say_times(latency.original, originals)}")
    if told:
        text = f"The figures of the result are of {chosen}, those of the original of the fastest runtime: "
        yield make_finding("runtime_chosen", f"{text}{'; '.join(told)}.")
    elif measured.asked == "auto":
        yield make_finding(
            "runtime_chosen", f"On this worker {chosen} is the only runtime that runs the files, so `auto` means it."
        )
    if measured.quality is None or measured.quality.runtime_difference is None:
        return
    difference, noise = measured.quality.runtime_difference, 10 ** (-measured.quality.sqnr_db / 20)
    if difference > max(SAME_ANSWERS, noise):
        yield make_finding(
            "runtimes_differ",
            f"The result's answers in {chosen} are {100 * difference:.2g} % from those in {name_runtime(ONNXRUNTIME)} "
            f"(root mean square), more than from the original's ({100 * noise:.2g} %). The quality is of {chosen}.",
        )


def say_workspace(measured: Measurement, missing: float) -> str:
    """What takes the memory that was planned to be saved, as far as the work space of convolutions explains it."""
    kernel = measured.workspace
    if measured.runtime != ONNXRUNTIME:
        return f"what {name_runtime(measured.runtime)} takes to compile a file and for its kernels is more"
    if kernel is None or not kernel.workspace_bytes:
        return "kernels take work space of their own"
    size = (
        f"the integer convolution {kernel.names[0]} takes 8 B × {kernel.taps} taps × {kernel.pixels:,} output pixels = "
        f"{say_bytes(kernel.workspace_bytes)} of work space"
    )
    if kernel.workspace_bytes >= EXPLAINS * missing:
        return size
    return f"{size}, the most of all, which does not explain it"


def _say_speedup(speedup: Speedup, limit: SpeedLimit) -> str:
    if not speedup.significant:
        return f"not measurably faster at batch {speedup.batch}"
    if speedup.ratio < 1:
        return f"{1 / speedup.ratio:.2f}× slower at batch {speedup.batch}"
    share = f"{100 * limit.reached:.0f} % of the most that integers could give"
    return f"{speedup.ratio:.2f}× as fast at batch {speedup.batch} ({share})"


def _say_peak(peak: PeakRatio) -> str:
    return f"{peak.ratio:.1f}× ({peak.low:.1f} to {peak.high:.1f})"


def _say_share(share: float) -> str:
    if 0 < share < 0.005:
        return "less than 1 %"
    return f"{100 * share:.0f} %"


def _say_others(measured: Measurement) -> str:
    """What else takes time, by operator."""
    ranked = sorted(measured.shares.operators.items(), key=lambda item: -item[1])
    notable = [(name, share) for name, share in ranked[:MOST_OPERATORS] if share > NOTABLE]
    rest = sum(measured.shares.operators.values())
    if rest <= NOTABLE:
        return ""
    named = f", most in {say_list(f'{name} ({_say_share(share)})' for name, share in notable)}" if notable else ""
    return f" and {_say_share(rest)} into float products and other operators{named}"


def _say_products(products: FloatProducts) -> str:
    share = f"({_say_share(products.share)} of the multiply-adds)"
    if products.why == "activations":
        return f"products of two activations {share}"
    names = [*products.layers[:MOST_NAMED]]
    more = len(products.layers) - len(names)
    layers = say_list([*names, f"{more} more"] if more > 0 else names) or "products of constants"
    return f"{layers} {share}, {REASONS[products.why]}"


def _say_times(chosen: Latency, others: tuple[Latency, ...]) -> str:
    return ", ".join(f"{each.median_ms:.3f} ms in {each.runtime}" for each in (chosen, *others))
