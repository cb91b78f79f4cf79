"""What is left of a network is brought nearer to what it answered before, without labels, as long as that helps."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from core.compression.context import Context
from core.compression.curvature import answer_of, divergence
from core.compression.logits import logits_of
from core.compression.prune.least_squares import HELD, is_held, refit
from core.compression.recalibration import estimate_norms, match_moments
from core.compression.relay import live_bytes
from core.compression.sensitivity import MOST_MACS
from core.compression.yardstick import Inputs, input_batches
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery import Channels, Group
from core.specs.structured_pruning import Compensation, Correction

Tick = Callable[[float], None]

_BATCH = 32
# Bytes of inputs that are held at once; there are fewer samples where they are large.
_MOST_BYTES = 256 * 2**20
# Samples that means and deviations of layers are taken over at once, and bytes of values within the network for them.
_MOMENT_SAMPLES, _VALUE_BYTES = 512, 512 * 2**20
# How many times a sample runs through a whole network, or takes as long, until all corrections are made and judged.
_PASSES = 6
# Cuts that are compared.
_TRIALS = 5

CORRECTIONS: Mapping[Compensation, tuple[Correction, ...]] = {
    "auto": ("least_squares", "statistics"),
    "least_squares": ("least_squares",),
    "statistics": ("statistics",),
    "none": (),
}
_NAMES: Mapping[Correction, str] = {
    "least_squares": "Fitting layers to the outputs that they had",
    "statistics": "Matching means and deviations",
}


@final
@dataclass(frozen=True)
class Cut:
    """A network that channels were cut from, which ones stayed, and by layer the old numbers of its outputs."""

    channels: Channels
    keep: Mapping[Group, torch.Tensor]
    outputs: Mapping[str, Sequence[int]]
    network: Network


@final
@dataclass(frozen=True)
class Compensated:
    """A network, the corrections that were made, its divergence from the original's answers, and what to tell."""

    network: Network
    made: tuple[Correction, ...]
    distance: float
    told: tuple[str, ...]


@final
class Compensator:
    """Corrects cut networks, and says how far their answers are from the original's on samples not fitted to.

    Every fourth batch is held back for that; of fewer batches all are judged by.
    """

    def __init__(self, original: Network, samples: int, context: Context) -> None:
        """Raises `missing_data` without a batch of calibration samples, and `non_finite`."""
        macs = max(describe(original).macs, 1)
        samples = max(min(samples, int(MOST_MACS / (_PASSES * macs))), HELD)
        self._batches = _take(original, samples, context)
        self._task = context.needed_dataset().task
        held = [inputs for number, inputs in enumerate(self._batches) if is_held(number)]
        self._judged = held or self._batches
        self._undo = logits_of(original, self._task)
        with torch.no_grad():
            self._wanted = [answer_of(original.graph, self._undo, inputs, self._task) for inputs in self._judged]
        # Whether there is time to correct several cuts and keep the best.
        self.is_cheap = _TRIALS * _PASSES * sum(len(inputs[0]) for inputs in self._batches) * macs <= MOST_MACS

    def improve(self, cut: Cut, corrections: Sequence[Correction], tick: Tick, *, judged: bool = True) -> Compensated:
        """Make these corrections, each on top of those before it; `tick` is told the share that is done.

        One after which answers are no nearer is left out, unless they are not to be `judged`.
        """
        result, made, told = cut.network, list[Correction](), list[str]()
        distance = self._distance(result)
        for number, correction in enumerate(corrections):

            def tick_part(done: float, number: int = number) -> None:
                tick((number + done) / len(corrections))

            tick_part(0.0)
            tried = _CORRECT[correction](cut, result, self._batches, tick_part)
            now = self._distance(tried)
            text = f"{_NAMES[correction]}: answers are {now:.3g} from those before the cut, {distance:.3g} without"
            if now < distance or not judged:
                result, distance = tried, now
                made.append(correction)
                told.append(f"{text}.")
            else:
                told.append(f"{text}, so that it is left out.")
        return Compensated(result, tuple(made), distance, tuple(told))

    def _distance(self, network: Network) -> float:
        """The divergence from the original's answers, a mean over samples; infinite where they are no numbers."""
        total = 0.0
        try:
            with torch.no_grad():
                for inputs, wanted in zip(self._judged, self._wanted, strict=True):
                    found = answer_of(network.graph, self._undo, inputs, self._task)
                    total += float(divergence(found, wanted, self._task))
        except ModelpressError:
            return float("inf")
        return total / sum(len(inputs[0]) for inputs in self._judged)


def _take(network: Network, samples: int, context: Context) -> list[Inputs]:
    dataset = context.needed_dataset()
    limit = min(samples, dataset.count("calibration"))
    # Few samples still make as many batches as are needed to hold one back.
    size = max(min(_BATCH, limit // HELD), 1)
    taken = input_batches(network, dataset, "calibration", limit=limit, batch=size)
    first = next(taken, None)
    if first is None:
        raise ModelpressError("missing_data", "There are too few calibration samples to make up for the cut with.")
    most = max(_MOST_BYTES // max(sum(each.nbytes for each in first), 1), HELD)
    return [first, *itertools.islice(taken, most - 1)]


def _fit(cut: Cut, network: Network, batches: Sequence[Inputs], tick: Tick) -> Network:
    return refit(cut.channels.network, network, cut.outputs, lambda: batches, tick)


def _match(cut: Cut, network: Network, batches: Sequence[Inputs], tick: Tick) -> Network:
    result = replace(network, graph=copy_graph(network.graph))
    seen = [inputs for number, inputs in enumerate(batches) if not is_held(number)]
    if not estimate_norms(result, seen):
        names = {f"{path}.weight" for path in cut.outputs}
        kept = {name: cut.channels.positions(name, 0, cut.keep) for name in names}
        stayed = {name: positions for name, positions in kept.items() if positions is not None}
        match_moments(result, cut.channels.network, stayed, _joined(cut.channels.network, seen))
    tick(1.0)
    return result


def _joined(network: Network, batches: Sequence[Inputs]) -> Inputs:
    """One batch of as many of the samples as memory holds the values of; the first batch where its size is fixed."""
    with torch.no_grad():
        alive = live_bytes(network.graph, batches[0])
    samples = len(batches[0][0])
    fixed = not network.inputs[0].shape or isinstance(network.inputs[0].shape[0], int)
    most = 1 if fixed else max(min(_VALUE_BYTES // max(alive, 1), _MOMENT_SAMPLES // samples), 1)
    return tuple(torch.cat(each) for each in zip(*batches[:most], strict=True))


_CORRECT: Mapping[Correction, Callable[[Cut, Network, Sequence[Inputs], Tick], Network]] = {
    "least_squares": _fit,
    "statistics": _match,
}
