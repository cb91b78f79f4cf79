"""Latency of two files, interleaved in one process, with a run of the original against itself as noise floor."""

import gc
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TypeVar, final

import numpy as np

from core.measure.intervals import Matrix, median_interval, median_ratio_interval
from core.measure.runtime import Feed, count_samples, open_session
from core.verdict import Latency, Speedup

RUNS = 50
# The runs are spread over so many sets of fresh sessions: where their memory lies moves short times by some percent.
BLOCKS = 5
# A run of a short network is a burst of calls that takes about so long, since one call is not much above timer noise.
RUN_NS = 2_000_000
MOST_CALLS = 200
WARM_UP_NS = 30_000_000
WARM_UP_CALLS = 3
BINS = 16
TAIL_PERCENT = 99
NS_PER_MS = 1e6

Call = Callable[[], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Latencies at one batch size; `noise_floor` is how far from 1 the ratio of the original to itself may be."""

    original: Latency
    result: Latency
    speedup: Speedup
    noise_floor: float


@final
class _Series:
    """The timed calls of one file: of each run the median, by block, and every call for the tail."""

    def __init__(self) -> None:
        self.blocks: list[list[float]] = []
        self.calls: list[int] = []

    def open(self, call: Call) -> None:
        """Begin a block with a fresh session."""
        self._call = call
        self._repeats = _count_calls(call)
        self.blocks.append([])

    def run(self) -> None:
        """Time one run."""
        # The first call of a burst pays for what the other sessions drove out of the caches.
        if self._repeats > 1:
            self._call()
        times = []
        for _ in range(self._repeats):
            start = perf_counter_ns()
            self._call()
            times.append(perf_counter_ns() - start)
        self.blocks[-1].append(statistics.median(times))
        self.calls.extend(times)

    @property
    def runs(self) -> Matrix:
        """Nanoseconds a call, (blocks, runs)."""
        return np.array(self.blocks)


def compare_latency(
    original: Path,
    result: Path,
    feed: Feed,
    *,
    threads: int,
    runs: int = RUNS,
    progress: Callable[[float], None] = lambda _: None,
) -> LatencyComparison:
    """Time both files on `feed`, at least `runs` times each; the caller holds the host's measuring lock.

    Each round times original, result and a second session of the original, forwards and backwards in turn, so that
    drift of the machine falls on all of them. A speedup is significant when its 95 % interval excludes 1 and it is
    farther from 1 than the noise floor.
    """
    paths = (original, result, original)
    series = [_Series() for _ in paths]
    in_block = math.ceil(runs / BLOCKS)
    batch = 1
    with _without_collector():
        for index in range(in_block * BLOCKS):
            # Forwards and backwards in turn: in the rounds of a block, and in opening its sessions.
            if index % in_block == 0:
                for one, path in _turn(list(zip(series, paths, strict=True)), index // in_block):
                    call, batch = _bind(path, feed, threads)
                    one.open(call)
            for one in _turn(series, index):
                one.run()
            progress((index + 1) / (in_block * BLOCKS))
    before, after, again = (one.runs for one in series)
    self_low, self_high = _ratio(before, again)[1:]
    floor = max(abs(self_low - 1), abs(self_high - 1))
    ratio, low, high = _ratio(before, after)
    significant = (low > 1 or high < 1) and abs(ratio - 1) > floor
    return LatencyComparison(
        original=_summarise(series[0], batch),
        result=_summarise(series[1], batch),
        speedup=Speedup(batch=batch, ratio=ratio, low=low, high=high, significant=significant),
        noise_floor=floor,
    )


def _turn(items: list[T], index: int) -> list[T]:
    return items if index % 2 == 0 else items[::-1]


def _bind(path: Path, feed: Feed, threads: int) -> tuple[Call, int]:
    """A call of the runtime on inputs that are bound once, so that Python's share is small, and its samples."""
    session = open_session(path, threads)
    binding = session.io_binding()
    for name, rows in feed.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(rows))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding), count_samples(session, feed)


def _count_calls(call: Call) -> int:
    """Warm up, and tell how many calls make a run of `RUN_NS`."""
    times: list[int] = []
    while len(times) < WARM_UP_CALLS or (sum(times) < WARM_UP_NS and len(times) < MOST_CALLS):
        start = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - start)
    typical = statistics.median(times[len(times) // 2 :])
    return max(1, min(MOST_CALLS, math.ceil(RUN_NS / typical) if typical < RUN_NS / 2 else 1))


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ratio(before: Matrix, after: Matrix) -> tuple[float, float, float]:
    interval = median_ratio_interval(before, after, seed=0)
    return float(np.median(before) / np.median(after)), interval.low, interval.high


def _summarise(series: _Series, batch: int) -> Latency:
    runs, calls = series.runs / NS_PER_MS, np.array(series.calls) / NS_PER_MS
    interval = median_interval(runs, seed=0)
    # What is beyond the 99th percentile is counted in the last bin.
    counts, edges = np.histogram(np.minimum(calls, np.percentile(calls, TAIL_PERCENT)), BINS)
    return Latency(
        batch=batch,
        median_ms=float(np.median(runs)),
        p95_ms=float(np.percentile(calls, 95)),
        runs=runs.size,
        low_ms=interval.low,
        high_ms=interval.high,
        histogram=tuple((float(edge), int(count)) for edge, count in zip(edges[:-1], counts, strict=True)),
    )
