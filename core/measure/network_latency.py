"""How long a network would take at other widths, by the times of its operators in a runtime of this host."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import scipy.optimize

from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.measure.engine import RuntimeName, bind_file, candidate_runtimes
from core.measure.feeds import make_feed
from core.measure.intervals import Interval, Matrix
from core.measure.latency import NS_PER_MS, ratio_of, time_calls
from core.measure.latency_table import LatencyTable, Timed, near
from core.measure.onnx_graph import load_graph
from core.measure.operators import Operator, split_file
from core.measure.runtime import Feed, open_session
from core.measure.symbolic_sizes import SizeBook, choose_probes, size_of
from core.network.export import export_onnx
from core.network.network import Network
from core.network.surgery import Channels, Group
from core.network.surgery.dimensions import Dimension
from core.specs.recipe import Target

Tell = Callable[[float], None]

_RUNS, _BLOCKS = 8, 5
# Shares of all widths at which the network is measured whole.
_ANCHORS = (0.6, 0.3)


@final
@dataclass(frozen=True)
class Measured:
    """Milliseconds of a run of a whole network, and its share of the time of the original with its 95 % interval."""

    median_ms: float
    original_ms: float
    share: float
    interval: Interval


@final
class Stopwatch:
    """Times whole networks against the one that they came from, on one feed, in one runtime.

    Of the runtimes that a target leaves open the one is taken that is fastest for the original. Use as a context:
    the files lie in a folder until then. Raises `runtime_missing`, and what `export_onnx` raises.
    """

    def __init__(self, network: Network, dataset: Dataset | None, target: Target) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.target = target
        self.original = self.write(network, "original")
        session = open_session(self.original, target.threads)
        self.feed: Feed = make_feed(session, dataset, target.batch_sizes[0], network.sizes)
        names = candidate_runtimes(target.runtime)
        times = [_median(each) for each in self._time([(self.original, name) for name in names])]
        self.runtime: RuntimeName = names[int(np.argmin(times))]
        self.original_ms = min(times)

    def __enter__(self) -> "Stopwatch":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def write(self, network: Network, name: str) -> Path:
        """The file of a network."""
        path = Path(self._folder.name) / f"{name}.onnx"
        export_onnx(network, path)
        return path

    def measure(self, network: Network) -> Measured:
        """Time a network and the original in turns; in seconds."""
        return self.measure_files([self.write(network, "other")])[0]

    def measure_files(self, paths: Sequence[Path]) -> list[Measured]:
        """Time files and the original in turns."""
        before, *others = self._time([(path, self.runtime) for path in (self.original, *paths)])
        found = []
        for after in others:
            share, interval = ratio_of(after, before)
            found.append(Measured(_median(after), _median(before), share, interval))
        return found

    def _time(self, files: Iterable[tuple[Path, RuntimeName]]) -> list[Matrix]:
        makers = [partial(bind_file, name, path, self.feed, self.target.threads) for path, name in files]
        return [one.runs for one in time_calls(makers, _RUNS, blocks=_BLOCKS)]


def _median(runs: Matrix) -> float:
    return float(np.median(runs)) / NS_PER_MS


@final
class NetworkLatency:
    """The predicted milliseconds of a run: a fixed part, and `factor` times the sum of all operators.

    An operator that is timed alone finds its weights in the nearest caches and has no neighbours to share work with;
    what that comes to is learnt from networks that are measured whole.
    """

    def __init__(self, operators: Mapping[Operator, Timed], call_ms: float) -> None:
        self._operators = tuple(operators.items())
        self._cache: dict[tuple[Operator, tuple[int, ...]], float] = {}
        self._call_ms = call_ms
        self.fixed_ms, self.factor = call_ms, 1.0

    def calibrate(self, measured: Sequence[tuple[Mapping[Group, int], float]]) -> None:
        """Fit both to milliseconds at some widths, by relative errors; no less than a call is fixed."""
        times = np.array([ms for _, ms in measured])
        rows = np.array([(1.0, self._alone(widths)) for widths, _ in measured]) / times[:, None]
        (fixed, factor), _ = scipy.optimize.nnls(rows, 1 - self._call_ms / times)
        self.fixed_ms, self.factor = self._call_ms + float(fixed), float(factor)

    def at(self, widths: Mapping[Group, int]) -> float:
        """Milliseconds at these widths; groups that are not named have their full ones."""
        return self.fixed_ms + self.factor * self._alone(widths)

    def _alone(self, widths: Mapping[Group, int]) -> float:
        axes: dict[Dimension, int] = {group.axis: width for group, width in widths.items()}
        total = 0.0
        for operator, timed in self._operators:
            sizes = {each: size_of(each, axes) for each in operator.variables}
            key = operator, tuple(sizes.values())
            if key not in self._cache:
                self._cache[key] = timed.at(sizes)
            total += self._cache[key]
        return total


def predict_network(
    channels: Channels, groups: Sequence[Group], stopwatch: Stopwatch, progress: Tell = lambda _: None
) -> tuple[NetworkLatency, LatencyTable]:
    """Time the operators of a network at some widths of these groups, in seconds.

    Raises `unsupported_layer` where a network of other widths is not the same graph.
    """
    probes = choose_probes(groups)
    files = [stopwatch.original]
    for number, probe in enumerate(probes):
        files.append(stopwatch.write(cut_to(channels, probe), f"probe{number}"))
        progress(0.3 * (number + 1) / len(probes))
    operators = split_file([load_graph(file) for file in files], stopwatch.feed, SizeBook(channels, probes))
    if operators is None:
        raise ModelpressError(
            "unsupported_layer",
            "How long this network takes at other widths cannot be predicted, since its file is another graph then.",
            hint="Ask for a share of the multiply-adds instead, and for a latency as a constraint.",
        )
    table = LatencyTable(stopwatch.runtime, stopwatch.target.threads)
    latency = NetworkLatency(table.time(operators, lambda share: progress(0.3 + 0.5 * share)), table.call_ms)
    anchors = [{group: near(group.size, share) for group in groups} for share in _ANCHORS]
    files = [
        stopwatch.original,
        *(stopwatch.write(cut_to(channels, widths), f"anchor{number}") for number, widths in enumerate(anchors)),
    ]
    measured = stopwatch.measure_files(files)
    latency.calibrate([(widths, each.median_ms) for widths, each in zip(({}, *anchors), measured, strict=True)])
    progress(1.0)
    return latency, table


def cut_to(channels: Channels, widths: Mapping[Group, int]) -> Network:
    """The network at these widths, whichever channels stay."""
    return channels.resize({group: range(width) for group, width in widths.items() if width < group.size})
