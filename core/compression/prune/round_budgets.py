"""What one round of several may leave, as the budget of a prune in one shot."""

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch

from core.compression.context import Context
from core.compression.prune.timing import TIMES
from core.measure.network_latency import Stopwatch
from core.network.describe import describe
from core.network.network import Network
from core.network.stored_bytes import stored_bytes
from core.network.surgery import find_blocks
from core.specs.budgets import Kept
from core.specs.mask_pruning import MaskPruning, WeightPruning
from core.specs.pruning import Pruning
from core.specs.structured_pruning import ChannelPruning

P = TypeVar("P", bound=Pruning)


@final
@dataclass(frozen=True)
class RoundBudgets:
    """The budgets of rounds that begin with a network; `whole` is what it has of the measure, in its unit."""

    keep: Kept
    whole: float

    @classmethod
    def of(cls, spec: Pruning, network: Network, context: Context) -> "RoundBudgets":
        """Of a drop, the shares that are tried are of what a bare number would stand for; times are measured."""
        keep = spec.keep
        if keep.measure in TIMES:
            with Stopwatch(network, context.dataset, context.target) as stopwatch:
                return cls(keep, stopwatch.original_ms)
        return cls(keep, whole_of(keep.shorthand if spec.spends_drop else keep.measure, network))

    def after(self, gone: float) -> float:
        """The amount that may be left once a share of what has to go is gone; of a drop, all would have to."""
        least = 0.0 if self.keep.measure == "max_drop" else self.keep.most(self.whole)
        return self.whole - (self.whole - least) * gone

    def budget(self, amount: float, network: Network) -> Kept | None:
        """What brings `network`, as it is by now, to an amount; None where it has no more than that."""
        measure = self.keep.shorthand if self.keep.measure == "max_drop" else self.keep.measure
        if measure == "weights":
            # Masks leave shapes as they are: a share of the weights is one of those in the beginning.
            return self.keep.of(measure, amount)
        if measure in TIMES:
            return self.keep.of("latency_ms", amount)
        left = whole_of(measure, network)
        if measure == "blocks":
            wanted = max(round(amount), 1)
            return None if wanted >= left else self.keep.of(measure, wanted / left)
        return None if left <= amount else self.keep.of(measure, max(math.floor(amount), 1))


def whole_of(measure: str, network: Network) -> float:
    """What a network has of a measure, in its unit; of weights, which masks count in shares, 1."""
    match measure:
        case "weights":
            return 1.0
        case "blocks":
            return float(len(find_blocks(network)))
        case "bytes":
            return float(stored_bytes(network))
        case _:
            return float(getattr(describe(network), measure))


def numbers_left(network: Network) -> int:
    """How many numbers of the parameters are not zero: what has fallen where anything was pruned."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in network.graph.parameters())


def one_shot(spec: P, keep: Kept, gone: float) -> P:
    """The spec of one round, after which a share of what has to go is gone, with the layers that have shares too."""
    changed: dict[str, object] = {"keep": keep, "schedule": None}
    if isinstance(spec, MaskPruning | ChannelPruning):
        changed["layers"] = {layer: 1 - (1 - share) * gone for layer, share in spec.layers.items()}
    if isinstance(spec, WeightPruning) and spec.n is not None and spec.m is not None:
        changed["n"] = min(spec.m - int((spec.m - spec.n) * gone), spec.m - 1)
    return spec.model_copy(update=changed)
