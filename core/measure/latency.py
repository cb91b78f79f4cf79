"""Latency of two files, interleaved in one process, with a run of the original against itself as noise floor."""

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TypeVar, final

import numpy as np

from core.measure.engine import ONNXRUNTIME, Call, RuntimeName, bind_file, name_runtime
from core.measure.intervals import Interval, Matrix, median_interval, median_ratio_interval
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Latencies at one batch size; `noise_floor` is how far from 1 the ratio of the original to itself may be.

    `others` are the latencies of both files in the runtimes that were not taken, the original's first.
    """

    original: Latency
    result: Latency
    speedup: Speedup
    noise_floor: float
    others: tuple[tuple[Latency, ...], tuple[Latency, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Schedule:
    """How two files are timed: at least `runs` times each, in the runtimes that are named for each."""

    threads: int
    runs: int = RUNS
    originals: tuple[RuntimeName, ...] = (ONNXRUNTIME,)
    results: tuple[RuntimeName, ...] = (ONNXRUNTIME,)


@final
class Series:
    """The timed calls of one thing: of each run the median, by block, and every call for the tail."""

    def __init__(self) -> None:
        self.blocks: list[list[float]] = []
        self.calls: list[int] = []

    def open(self, call: Call) -> None:
        """Begin a block with a call that was made for it."""
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


@dataclass(frozen=True, slots=True)
class TimedPair:
    """Two files, timed on one feed: the original twice in each of its runtimes, the result once in each of its own."""

    batch: int
    originals: dict[RuntimeName, tuple[Series, Series]]
    results: dict[RuntimeName, Series]

    def compare(self, runtime: RuntimeName) -> LatencyComparison:
        """The result in `runtime` against the original where that is fastest.

        A speedup is significant when its 95 % interval excludes 1 and it is farther from 1 than the noise floor.
        """
        baseline = min(self.originals, key=lambda name: _typical(self.originals[name][0]))
        (before, again), after = (one.runs for one in self.originals[baseline]), self.results[runtime].runs
        own = ratio_of(before, again)[1]
        floor = max(abs(own.low - 1), abs(own.high - 1))
        ratio, interval = ratio_of(before, after)
        significant = (interval.low > 1 or interval.high < 1) and abs(ratio - 1) > floor
        originals = {name: _summarise(pair[0], self.batch, name) for name, pair in self.originals.items()}
        results = {name: _summarise(one, self.batch, name) for name, one in self.results.items()}
        return LatencyComparison(
            original=originals.pop(baseline),
            result=results.pop(runtime),
            speedup=Speedup(
                batch=self.batch, ratio=ratio, low=interval.low, high=interval.high, significant=significant
            ),
            noise_floor=floor,
            others=(tuple(originals.values()), tuple(results.values())),
        )


def choose_runtime(pairs: Sequence[TimedPair]) -> RuntimeName:
    """The runtime in which the result is fastest by the geometric mean over the batch sizes."""
    names = pairs[0].results
    return min(names, key=lambda name: sum(math.log(_typical(pair.results[name])) for pair in pairs))


def compare_latency(
    original: Path,
    result: Path,
    feed: Feed,
    *,
    threads: int,
    runs: int = RUNS,
    progress: Callable[[float], None] = lambda _: None,
) -> LatencyComparison:
    """Time both files on `feed` in onnxruntime; the caller holds the host's measuring lock."""
    return time_pair(original, result, feed, Schedule(threads, runs), progress).compare(ONNXRUNTIME)


def time_pair(
    original: Path, result: Path, feed: Feed, schedule: Schedule, progress: Callable[[float], None] = lambda _: None
) -> TimedPair:
    """Time both files on `feed` in every runtime of the schedule; the caller holds the host's measuring lock.

    Each round times originals, results and second sessions of the originals, forwards and backwards in turn, so that
    drift of the machine falls on all of them.
    """
    files = [
        *((original, name) for name in schedule.originals),
        *((result, name) for name in schedule.results),
        *((original, name) for name in schedule.originals),
    ]
    makers = [_maker(path, name, feed, schedule.threads) for path, name in files]
    series = time_calls(makers, math.ceil(schedule.runs / BLOCKS), progress)
    count = len(schedule.originals)
    return TimedPair(
        batch=count_samples(open_session(original, schedule.threads), feed),
        originals=dict(zip(schedule.originals, zip(series[:count], series[-count:], strict=True), strict=True)),
        results=dict(zip(schedule.results, series[count:-count], strict=True)),
    )


def time_calls(
    makers: Sequence[Callable[[], Call]],
    runs: int,
    progress: Callable[[float], None] = lambda _: None,
    *,
    blocks: int = BLOCKS,
) -> list[Series]:
    """Time what `makers` make anew for each block, `runs` times in each, interleaved."""
    series = [Series() for _ in makers]
    with _without_collector():
        for index in range(runs * blocks):
            # Forwards and backwards in turn: in the rounds of a block, and in opening its sessions.
            if index % runs == 0:
                for one, make in _turn(list(zip(series, makers, strict=True)), index // runs):
                    one.open(make())
            for one in _turn(series, index):
                one.run()
            progress((index + 1) / (runs * blocks))
    return series


def _maker(path: Path, runtime: RuntimeName, feed: Feed, threads: int) -> Callable[[], Call]:
    return lambda: bind_file(runtime, path, feed, threads)


def _typical(series: Series) -> float:
    return float(np.median(series.runs))


def _turn(items: list[T], index: int) -> list[T]:
    return items if index % 2 == 0 else items[::-1]


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


def ratio_of(before: Matrix, after: Matrix) -> tuple[float, Interval]:
    """The ratio of two medians, (blocks, runs) each, with its 95 % interval."""
    return float(np.median(before) / np.median(after)), median_ratio_interval(before, after, seed=0)


def _summarise(series: Series, batch: int, runtime: RuntimeName) -> Latency:
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
        runtime=name_runtime(runtime),
    )
