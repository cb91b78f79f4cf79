"""Measures two files against each other: everything that a verdict is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.data.dataset import Dataset
from core.measure.costs import Costs, count_costs
from core.measure.engine import ONNXRUNTIME, RuntimeName, baseline_runtimes, candidate_runtimes, keep_able
from core.measure.feeds import make_feed
from core.measure.kernels import Kernel, add_unseen, find_kernels, rounds_activations
from core.measure.latency import LatencyComparison, Schedule, TimedPair, choose_runtime, time_pair
from core.measure.lock import hold_measuring_lock
from core.measure.memory import Probe, ProcessMemory, plan_memory, planned_peak_bytes, probe_pair
from core.measure.onnx_graph import load_graph
from core.measure.optimised import trace_optimised
from core.measure.profile import TimeShares, share_time
from core.measure.quality import Comparison, Sides, compare_answers
from core.measure.roofline import Roofline, measure_roofline
from core.measure.runtime import Feed, fixed_batch, open_session
from core.measure.size import Size, measure_size
from core.measure.two_conditions import FloatProducts, Products, list_float_products
from core.specs.recipe import Target
from core.verdict import TwoConditions

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class FileFigures:
    """What one file is and needs. `planned_bytes` is at one sample, `planned_large_bytes` at the batch of `memory`."""

    size: Size
    costs: Costs
    planned_bytes: int
    planned_large_bytes: int
    memory: ProcessMemory


@dataclass(frozen=True, slots=True)
class Speed:
    """Why the result is as fast as it is: both conditions, and which products stay float."""

    conditions: TwoConditions
    float_products: tuple[FloatProducts, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Original and result side by side; `batch_fixed` is the only batch size of a model that has no other.

    `runtime` is that of the result, `asked` what the target says. `speed` is there where something computes in
    integers; `workspace` is the kernel of the result that takes the most work space beside its tensors. `synthetic`
    says that there was no data, and `assumed` how inputs were drawn then.
    """

    original: FileFigures
    result: FileFigures
    quality: Comparison | None
    latency: tuple[LatencyComparison, ...]
    shares: TimeShares
    batch_fixed: int | None
    overlap: int
    synthetic: bool = False
    assumed: str = ""
    runtime: RuntimeName = ONNXRUNTIME
    asked: str = ONNXRUNTIME
    speed: Speed | None = None
    workspace: Kernel | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The files and what they are measured with; `encodings` has by name how each layer is stored.

    `sizes` has by name what stands for free sizes besides the batch, where no data says it.
    """

    original: Path
    result: Path
    dataset: Dataset | None
    target: Target
    encodings: Mapping[str, str]
    lock_path: Path
    runs: int
    seed: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Timed:
    """What is measured while the lock is held."""

    runtime: RuntimeName
    latency: tuple[LatencyComparison, ...]
    memory: tuple[ProcessMemory, ProcessMemory]
    shares: TimeShares
    roofline: Roofline | None
    # Those of OpenVINO are seen while it runs; those of onnxruntime are read from its graph.
    kernels: tuple[Kernel, ...] | None


def measure(pair: Pair, progress: Progress) -> Measurement:
    """Time and memory under the host's lock, then quality in the same runtime.

    Raises `runtime_failed`, `runtime_missing`, `non_finite`.
    """
    session = open_session(pair.original, pair.target.threads)
    fixed = fixed_batch(session)
    batches = (fixed,) if fixed is not None else tuple(dict.fromkeys(pair.target.batch_sizes))
    feeds = {batch: make_feed(session, pair.dataset, batch, pair.sizes) for batch in {*batches, fixed or 1}}
    candidate_runtimes(pair.target.runtime)
    progress(0.0, "waiting for the measuring lock of this host")
    with hold_measuring_lock(pair.lock_path):
        timed = _measure_time(pair, {batch: feeds[batch] for batch in batches}, progress)
    quality = _measure_quality(pair, timed.runtime, progress)
    progress(0.9, "counting bytes")
    one, large = feeds[fixed or 1], feeds[max(batches)]
    traced = trace_optimised(pair.result, large)
    kernels = find_kernels(traced)
    original = _count(pair.original, one, planned_peak_bytes(pair.original, large), timed.memory[0])
    result = _count(pair.result, one, plan_memory(traced), timed.memory[1])
    computed = kernels if traced.fused else None
    if timed.kernels is not None:
        computed = add_unseen(timed.kernels, kernels)
    return Measurement(
        original=original,
        result=result,
        quality=quality,
        latency=timed.latency,
        shares=timed.shares,
        batch_fixed=fixed,
        overlap=pair.dataset.overlap() if pair.dataset is not None else 0,
        synthetic=pair.dataset is not None and pair.dataset.synthetic,
        assumed=pair.dataset.assumed if pair.dataset is not None else "",
        runtime=timed.runtime,
        asked=pair.target.runtime,
        speed=_explain(pair, timed, computed, max(batches)),
        workspace=max(kernels, key=lambda kernel: kernel.workspace_bytes, default=None),
    )


def _count(path: Path, one: Feed, planned_large: int, memory: ProcessMemory) -> FileFigures:
    """The figures of a file that take no lock."""
    return FileFigures(measure_size(path), count_costs(path, one), planned_peak_bytes(path, one), planned_large, memory)


def _measure_time(pair: Pair, feeds: dict[int, Feed], progress: Progress) -> _Timed:
    """Latency, memory, profile and roofline; the lock is held."""
    threads = pair.target.threads
    schedule = schedule_for(pair, feeds)
    timings: list[TimedPair] = []
    for index, (batch, feed) in enumerate(feeds.items()):
        text = f"timing {pair.runs} runs each at batch {batch}, interleaved"
        part = _part(progress, 0.4 * index / len(feeds), 0.4 / len(feeds), text)
        timings.append(time_pair(pair.original, pair.result, feed, schedule, part))
    runtime = choose_runtime(timings)
    progress(0.4, "measuring memory in fresh processes")
    memory = probe_pair(pair.original, pair.result, feeds[max(feeds)], Probe(runtime, threads))
    first, largest, layers = next(iter(feeds.values())), feeds[max(feeds)], tuple(pair.encodings)
    kernels = None
    if runtime == ONNXRUNTIME:
        shares = share_time(pair.result, first, layers, threads=threads)
    else:
        # Only a job for OpenVINO imports it.
        from core.measure.openvino_profile import profile_openvino  # noqa: PLC0415

        shares = profile_openvino(pair.result, first, layers, threads=threads).shares
        kernels = profile_openvino(pair.result, largest, layers, threads=threads).kernels
    roofline = None
    if rounds_activations(load_graph(pair.result)):
        progress(0.48, "measuring the peak of integer and float arithmetic")
        roofline = measure_roofline(runtime, threads)
    latency = tuple(timing.compare(runtime) for timing in timings)
    return _Timed(runtime, latency, memory, shares, roofline, kernels)


def schedule_for(pair: Pair, feeds: Mapping[int, Feed]) -> Schedule:
    """How the files are timed, in runtimes that are installed.

    A runtime that only adds to a choice may lack an operator of a file; one that was asked for by name may not.
    """
    threads, asked = pair.target.threads, pair.target.runtime
    originals = keep_able(baseline_runtimes(asked), pair.original, feeds.values(), threads)
    # Memory and quality of both files are of the result's runtime.
    results = keep_able(originals, pair.result, feeds.values(), threads) if asked == "auto" else (asked,)
    return Schedule(threads, pair.runs, originals, results)


def _explain(pair: Pair, timed: _Timed, kernels: tuple[Kernel, ...] | None, batch: int) -> Speed | None:
    if timed.roofline is None or not kernels:
        return None
    products = Products(kernels, batch, timed.roofline)
    speedups = [latency.speedup for latency in timed.latency]
    return Speed(
        products.weigh(speedups, timed.shares, timed.latency[0].result.median_ms / 1000),
        list_float_products(kernels, pair.encodings),
    )


def _measure_quality(pair: Pair, runtime: RuntimeName, progress: Progress) -> Comparison | None:
    if pair.dataset is None or not pair.dataset.count("evaluation"):
        return None
    sides = Sides(pair.original, pair.result, pair.target.threads, runtime, pair.seed)
    text = f"evaluating {pair.dataset.count('evaluation'):,} samples"
    return compare_answers(sides, pair.dataset, _part(progress, 0.5, 0.4, text))


def _part(progress: Progress, start: float, width: float, text: str) -> Callable[[float], None]:
    return lambda fraction: progress(start + width * fraction, text)
