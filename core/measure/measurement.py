"""Measures two files against each other: everything that a verdict is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.data.dataset import Dataset
from core.measure.costs import Costs, count_costs
from core.measure.feeds import make_feed
from core.measure.latency import LatencyComparison, compare_latency
from core.measure.lock import hold_measuring_lock
from core.measure.memory import ProcessMemory, planned_peak_bytes, probe_memory
from core.measure.profile import TimeShares, share_time
from core.measure.quality import Comparison, compare_quality
from core.measure.runtime import fixed_batch, open_session
from core.measure.size import Size, measure_size
from core.specs.recipe import Target

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
class Measurement:
    """Original and result side by side; `batch_fixed` is the only batch size of a model that has no other.

    `synthetic` says that there was no data, and `assumed` how inputs were drawn then.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The files and what they are measured with; `layers` are the names that time is shared out to.

    `sizes` has by name what stands for free sizes besides the batch, where no data says it.
    """

    original: Path
    result: Path
    dataset: Dataset | None
    target: Target
    layers: tuple[str, ...]
    lock_path: Path
    runs: int
    seed: int
    sizes: Mapping[str, int]


def measure(pair: Pair, progress: Progress) -> Measurement:
    """Quality first, then time and memory under the host's lock; raises `runtime_failed`, `non_finite`."""
    session = open_session(pair.original, pair.target.threads)
    fixed = fixed_batch(session)
    batches = (fixed,) if fixed is not None else tuple(dict.fromkeys(pair.target.batch_sizes))
    feeds = {batch: make_feed(session, pair.dataset, batch, pair.sizes) for batch in {*batches, fixed or 1}}
    quality = _measure_quality(pair, progress)
    progress(0.4, "waiting for the measuring lock of this host")
    with hold_measuring_lock(pair.lock_path):
        latency = []
        for index, batch in enumerate(batches):
            start, width = 0.4 + 0.4 * index / len(batches), 0.4 / len(batches)
            text = f"timing {pair.runs} runs each at batch {batch}, interleaved"
            latency.append(
                compare_latency(
                    pair.original,
                    pair.result,
                    feeds[batch],
                    threads=pair.target.threads,
                    runs=pair.runs,
                    progress=_part(progress, start, width, text),
                )
            )
        progress(0.8, "measuring memory in fresh processes")
        largest = max(batches)
        memory = probe_memory(
            (pair.original, pair.result), batch=largest, threads=pair.target.threads, sizes=pair.sizes
        )
        shares = share_time(pair.result, feeds[batches[0]], pair.layers, threads=pair.target.threads)
    progress(0.9, "counting bytes")
    one, large = feeds[fixed or 1], feeds[largest]
    figures = [
        FileFigures(
            measure_size(path),
            count_costs(path, one),
            planned_peak_bytes(path, one),
            planned_peak_bytes(path, large),
            used,
        )
        for path, used in zip((pair.original, pair.result), memory, strict=True)
    ]
    overlap = pair.dataset.overlap() if pair.dataset is not None else 0
    synthetic = pair.dataset is not None and pair.dataset.synthetic
    assumed = pair.dataset.assumed if pair.dataset is not None else ""
    return Measurement(figures[0], figures[1], quality, tuple(latency), shares, fixed, overlap, synthetic, assumed)


def _measure_quality(pair: Pair, progress: Progress) -> Comparison | None:
    if pair.dataset is None or not pair.dataset.count("evaluation"):
        return None
    return compare_quality(
        pair.original,
        pair.result,
        pair.dataset,
        threads=pair.target.threads,
        progress=_part(progress, 0.0, 0.4, f"evaluating {pair.dataset.count('evaluation'):,} samples"),
        seed=pair.seed,
    )


def _part(progress: Progress, start: float, width: float, text: str) -> Callable[[float], None]:
    return lambda fraction: progress(start + width * fraction, text)
