"""What quantizing each layer alone costs, and which layers stay float so that a limit holds."""

import gc
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from core.compression.context import Context
from core.compression.yardstick import SQNR_OF_EQUAL_DB, Yardstick, choosing_split
from core.network.describe import describe
from core.network.network import Network
from core.verdict import Sensitivity

# Samples for each layer's own trial: enough to rank layers; the limit is judged on more.
SAMPLES = 256
SAMPLES_OF_MANY_LAYERS = 64
MANY_LAYERS = 64
# Multiply-adds of all trials together, a minute or two of one core, and how few samples still rank layers.
MOST_MACS = 2e12
FEWEST_SAMPLES = 8
# Numbers of a layer whose copies are collected at once.
_LARGE_LAYER = 1 << 24

Build = Callable[[frozenset[str]], Network]


@dataclass(frozen=True)
class KeptFloat:
    """Layers kept float, worst first, the drop that is left on the choosing split, and that of quantizing all."""

    layers: tuple[str, ...]
    drop: float
    drop_of_all: float


@dataclass(frozen=True)
class Effort:
    """How many layers are tried, each on how many samples."""

    layers: int
    samples: int


def effort_for(layers: int, macs: int, batch: int = 1, *, most: int | None = None) -> Effort:
    """What can be tried so that many or large layers do not take for ever: first fewer samples, then fewer layers.

    `macs` are the multiply-adds of the network for one sample, `batch` is what it runs on at least; `most` samples
    are used of a small network.
    """
    most = most or (SAMPLES if layers <= MANY_LAYERS else SAMPLES_OF_MANY_LAYERS)
    samples = min(most, int(MOST_MACS / max(layers * macs, 1)))
    samples = max(samples, FEWEST_SAMPLES, batch)
    return Effort(max(min(layers, int(MOST_MACS / max(samples * macs, 1))), 1), samples)


def measure_layers(
    network: Network, build: Build, names: Collection[str], context: Context, span: tuple[float, float]
) -> dict[str, Sensitivity]:
    """Of every layer in `names` (paths), what it costs when `build` quantizes it alone; on the choosing split.

    The cost is bounded: of a huge network only some layers are tried, spread over `names`; the others' figures are
    None. `span` is where the trials begin and end within the step, 0 … 1. Nothing where the context wants none of it.
    Raises `missing_data`.
    """
    if not context.alone:
        return {}
    dataset = context.needed_dataset()
    split = choosing_split(dataset)
    size = network.inputs[0].shape[0] if network.inputs[0].shape else 1
    effort = effort_for(len(names), describe(network).macs, size if isinstance(size, int) else 1)
    tried = spread(sorted(names), effort.layers)
    if len(tried) < len(names):
        text = (
            f"The network is large: {len(tried)} of {len(names)} layers are tried alone, on {effort.samples} samples."
        )
        context.log(text)
    yardstick = Yardstick(network, dataset, split=split, limit=effort.samples)
    found = dict.fromkeys(sorted(names), Sensitivity())
    for number, name in enumerate(tried):
        context.progress(span[0] + (span[1] - span[0]) * number / len(tried), f"What {name} costs alone")
        found[name] = measure_sensitivity(build, name, yardstick)
        if sum(weight.numel() for weight in network.graph.get_submodule(name).parameters()) > _LARGE_LAYER:
            # A trial's graph and its modules hold each other, so that its weights would stay until there are many.
            gc.collect()
        context.metric("loss_increase", found[name].loss_increase or 0.0, split=split, layer=name)
        context.metric("sqnr", found[name].sqnr_db or 0.0, unit="dB", split=split, layer=name)
    return found


def spread(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, at even distances, the first and the last among them."""
    if count >= len(names):
        return list(names)
    last = len(names) - 1
    return [names[round(last * place / max(count - 1, 1))] for place in range(count)]


def measure_sensitivity(build: Build, layer: str, yardstick: Yardstick) -> Sensitivity:
    """Loss increase and output SQNR with only this layer quantized; no increase and −200 dB for what is no number."""
    score = yardstick.score(build(frozenset({layer})))
    increase = score.loss - yardstick.original.loss
    sqnr = score.sqnr_db if math.isfinite(score.sqnr_db) else -SQNR_OF_EQUAL_DB
    return Sensitivity(loss_increase=increase if math.isfinite(increase) else None, sqnr_db=sqnr)


def rank(sensitivities: dict[str, Sensitivity]) -> tuple[str, ...]:
    """Layers, worst first: what gives no numbers, then by loss increase, by signal to noise; untried last."""

    def badness(name: str) -> tuple[bool, float, float, str]:
        found = sensitivities[name]
        sqnr = SQNR_OF_EQUAL_DB if found.sqnr_db is None else found.sqnr_db
        broken = sqnr == -SQNR_OF_EQUAL_DB
        tried = found.loss_increase if found.loss_increase is not None else 0.0
        return not broken, -tried if found.sqnr_db is not None else math.inf, sqnr, name

    return tuple(sorted(sensitivities, key=badness))


def keep_float(build: Build, ranked: Sequence[str], yardstick: Yardstick, max_drop: float) -> KeptFloat:
    """The fewest of the worst layers that must stay float for the drop to hold, found by bisection.

    The drop that counts is measured for the very set that is returned.
    """
    drops: dict[int, float] = {}

    def drop_with(kept: int) -> float:
        if kept not in drops:
            network = build(frozenset(ranked[kept:]))
            drops[kept] = yardstick.drop(yardstick.score(network))
        return drops[kept]

    if drop_with(0) <= max_drop:
        return KeptFloat((), drop_with(0), drop_with(0))
    too_few, enough = 0, len(ranked)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if drop_with(middle) <= max_drop:
            enough = middle
        else:
            too_few = middle
    return KeptFloat(tuple(ranked[:enough]), drop_with(enough), drop_with(0))
