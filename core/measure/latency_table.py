"""How long operators take on this host at other widths: timed alone at a few widths, interpolated between them."""

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from time import perf_counter_ns
from typing import TypeAlias, final

import numpy as np
from onnx import TensorProto, helper

from core.measure.engine import Call, RuntimeName, bind_file
from core.measure.operators import Operator
from core.network.surgery.dimensions import Dimension

Sizes: TypeAlias = Mapping[Dimension, int]

# Widths at which an operator is timed along each of its dimensions, about so many.
KNOTS = 8
_WIDE = 16
# So many sessions are open at once, and take turns.
_TOGETHER = 12
# What so many copies of an operator in one model take more than one has no call in it, and no change of layout that
# only the ends of a model need.
_COPIES = 3
_OPSET = 20
_ROUNDS, _MOST_ROUNDS = 7, 21
# A turn is a burst of calls that takes about so long.
_BURST_NS, _MOST_CALLS = 200_000, 50
_WARM_UP_CALLS = 3
# Half of the rounds lie within so much of their median, or more rounds follow.
_STEADY = 0.05
NS_PER_MS = 1e6


def knots(size: int) -> tuple[int, ...]:
    """About `KNOTS` widths up to `size`: multiples of a power of two, since that is how vectors and blocks are long.

    From 16 on of 4 at least: onnxruntime takes other widths out of its blocks of channels, and back behind them.
    """
    step = max(2 ** math.ceil(math.log2(size / KNOTS)), 4 if size >= _WIDE else 1)
    return tuple(sorted({*range(step, size, step), size}))


def near(size: int, share: float) -> int:
    """The knot that is nearest to a share of the size."""
    return min(knots(size), key=lambda width: abs(width - share * size))


@final
@dataclass(frozen=True)
class Timed:
    """Milliseconds of one operator: along each dimension alone, and with each two of them at their smallest.

    A product that takes c + k·f(inputs)·g(outputs) is given exactly by these, whatever steps f and g have; so is a sum
    of both. `corners` are what two dimensions take together beyond the sum of what each takes.
    """

    full: float
    curves: Mapping[Dimension, tuple[tuple[int, ...], tuple[float, ...]]]
    corners: Mapping[tuple[Dimension, Dimension], float]

    def at(self, sizes: Sizes) -> float:
        """Milliseconds at these sizes of its dimensions."""
        saved = {
            each: self.full - float(np.interp(sizes[each], *self.curves[each])) for each in self.curves if each in sizes
        }
        total = self.full - sum(saved.values())
        for (one, other), corner in self.corners.items():
            if one in saved and other in saved:
                total += corner * self._share(one, saved[one]) * self._share(other, saved[other])
        return max(total, 0.0)

    def _share(self, dimension: Dimension, saved: float) -> float:
        most = self.full - self.curves[dimension][1][0]
        return saved / most if abs(most) > 1e-9 else 0.0


@final
class LatencyTable:
    """Times of single operators in one runtime with a number of threads; operators of one form share them.

    `call_ms` are the milliseconds of a call that computes next to nothing. `spread` is what half of the rounds of the
    median operator lie within, relative to its time.
    """

    def __init__(self, runtime: RuntimeName, threads: int) -> None:
        self.runtime, self.threads = runtime, threads
        self._times: dict[str, float] = {}
        self._spreads: list[float] = []
        self.call_ms = self._time_nothing()

    @property
    def points(self) -> int:
        """How many operators of some sizes were timed."""
        return len(self._times)

    @property
    def spread(self) -> float:
        """Of the times so far; 0 before the first."""
        return float(np.median(self._spreads)) if self._spreads else 0.0

    def time(
        self, operators: Iterable[Operator], progress: Callable[[float], None] = lambda _: None
    ) -> dict[Operator, Timed]:
        """Time operators at the knots of their dimensions, in seconds; the caller measures nothing else meanwhile."""
        every = list(operators)
        points = {operator: list(_points(operator)) for operator in every}
        missing = {
            key: (operator, at)
            for operator, own in points.items()
            for at in own
            if (key := operator.key(at)) not in self._times
        }
        for begin in range(0, len(missing), _TOGETHER):
            self._measure(dict(list(missing.items())[begin : begin + _TOGETHER]))
            progress(min((begin + _TOGETHER) / len(missing), 1.0))
        return {operator: self._read(operator) for operator in every}

    def _read(self, operator: Operator) -> Timed:
        full = dict(operator.variables)
        whole = self._times[operator.key(full)]
        curves = {
            each: (knots(size), tuple(self._times[operator.key(full | {each: width})] for width in knots(size)))
            for each, size in full.items()
        }
        corners = {}
        for one, other in combinations(full, 2):
            both = self._times[operator.key(_corner(operator, one, other))]
            corners[one, other] = both + whole - curves[one][1][0] - curves[other][1][0]
        return Timed(whole, curves, corners)

    def _measure(self, wanted: Mapping[str, tuple[Operator, Sizes]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            calls = [
                self._bind(Path(folder) / f"{number}_{copies}.onnx", *each, copies)
                for number, each in enumerate(wanted.values())
                for copies in (1, _COPIES)
            ]
            times = time_in_turns(calls)
        for key, one, several in zip(wanted, times[::2], times[1::2], strict=True):
            self._spreads.append(max(_spread(one), _spread(several)))
            self._times[key] = max(float(np.median(several) - np.median(one)) / (_COPIES - 1) / NS_PER_MS, 0.0)

    def _bind(self, path: Path, operator: Operator, at: Sizes, copies: int) -> Call:
        model, feed = operator.model(at, copies)
        path.write_bytes(model.SerializeToString())
        return bind_file(self.runtime, path, feed, self.threads)

    def _time_nothing(self) -> float:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1]), helper.make_empty_tensor_value_info("y")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", [value[0]], [value[1]])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "nothing.onnx"
            path.write_bytes(model.SerializeToString())
            call = bind_file(self.runtime, path, {"x": np.zeros((1, 1), np.float32)}, self.threads)
            return float(np.median(time_in_turns([call])[0])) / NS_PER_MS


def time_in_turns(calls: Sequence[Call]) -> list[list[float]]:
    """Of each call the nanoseconds of its best in every round; rounds follow until they agree, at most thrice as many.

    Other work on the machine makes single calls longer, never shorter.
    """
    bursts = [_count(call) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(_MOST_ROUNDS):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for index in order:
            if turn < _ROUNDS or _spread(times[index]) > _STEADY:
                times[index].append(_best(calls[index], bursts[index]))
    return times


def _spread(times: Sequence[float]) -> float:
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float((high - low) / middle)


def _best(call: Call, count: int) -> float:
    # The first call pays for what the others drove out of the caches.
    call()
    best = math.inf
    for _ in range(count):
        start = perf_counter_ns()
        call()
        best = min(best, perf_counter_ns() - start)
    return best


def _count(call: Call) -> int:
    for _ in range(_WARM_UP_CALLS):
        call()
    return max(1, min(_MOST_CALLS, math.ceil(_BURST_NS / _best(call, 1))))


def _points(operator: Operator) -> Iterable[Sizes]:
    full = dict(operator.variables)
    yield full
    for each, size in full.items():
        for width in knots(size):
            yield full | {each: width}
    for one, other in combinations(full, 2):
        yield _corner(operator, one, other)


def _corner(operator: Operator, one: Dimension, other: Dimension) -> dict[Dimension, int]:
    full = dict(operator.variables)
    return full | {each: knots(full[each])[0] for each in (one, other)}
