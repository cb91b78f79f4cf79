"""What quantizing each layer alone costs, and which layers stay float so that a limit holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.compression.yardstick import Yardstick
from core.network.network import Network
from core.verdict import Sensitivity

# Samples for each layer's own trial: enough to rank layers; the limit is judged on more.
SAMPLES = 256
SAMPLES_OF_MANY_LAYERS = 64
MANY_LAYERS = 64
# Multiply-adds of all trials together, a minute or two of one core, and how few samples still rank layers.
MOST_MACS = 2e12
FEWEST_SAMPLES = 32

Build = Callable[[frozenset[str]], Network]


@dataclass(frozen=True)
class KeptFloat:
    """Layers kept float, worst first, the drop that is left on the choosing split, and that of quantizing all."""

    layers: tuple[str, ...]
    drop: float
    drop_of_all: float


def samples_for(layers: int, macs: int) -> int:
    """How many samples each layer's trial may use, so that many layers or large ones do not take for ever.

    `macs` are the multiply-adds of the network for one sample.
    """
    most = SAMPLES if layers <= MANY_LAYERS else SAMPLES_OF_MANY_LAYERS
    return max(min(most, int(MOST_MACS / max(layers * macs, 1))), FEWEST_SAMPLES)


def measure_sensitivity(build: Build, layer: str, yardstick: Yardstick) -> Sensitivity:
    """Loss increase and output SQNR with only this layer on integers."""
    score = yardstick.score(build(frozenset({layer})))
    return Sensitivity(loss_increase=score.loss - yardstick.original.loss, sqnr_db=score.sqnr_db)


def rank(sensitivities: dict[str, Sensitivity]) -> tuple[str, ...]:
    """Layers, worst first: by loss increase, then by signal to noise, then by name."""

    def badness(name: str) -> tuple[float, float, str]:
        found = sensitivities[name]
        return -(found.loss_increase or 0.0), found.sqnr_db or 0.0, name

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
