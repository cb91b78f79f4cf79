"""Sparse regularisation: what pulls weights towards zero while they are trained, so that pruning costs less later."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.train.mount import TrainableNetwork
from core.compression.train.updates import DECAYED_RANK, SCALE, Regulariser
from core.network.network import Network
from core.network.surgery import Channels, outer_groups
from core.specs.train import Regularisation

_TINY = 1e-30


def make_regulariser(asked: Regularisation | None, network: Network, mounted: TrainableNetwork) -> Regulariser | None:
    """What is asked for, of the weights of `mounted`, which was made of `network`; None where nothing is."""
    if asked is None:
        return None
    if asked.of == "weights":
        return _OfWeights(asked.strength, mounted)
    return _OfChannels(asked.strength, network, mounted)


@final
class _OfWeights:
    """‖w‖₁: each weight moves towards zero by rate · strength, and no further (Parikh & Boyd 2014, section 6.5.2)."""

    def __init__(self, strength: float, mounted: TrainableNetwork) -> None:
        self._strength = strength
        self._weights = [
            each
            for name, each in mounted.named_parameters()
            if each.requires_grad and each.dim() >= DECAYED_RANK and name.rpartition(".")[2] != SCALE
        ]

    def shrink(self, rate: float) -> None:
        """Soft thresholding."""
        with torch.no_grad():
            for weight in self._weights:
                weight.copy_(torch.nn.functional.softshrink(weight, rate * self._strength))


@final
@dataclass(frozen=True)
class _Part:
    """One dimension of a trained weight, and the index of the group at each of its positions, or −1."""

    weight: Tensor
    dim: int
    labels: Tensor

    def squares(self, size: int) -> Tensor:
        """Sums of squares, (size,)."""
        values = self.weight.square().movedim(self.dim, 0).reshape(len(self.labels), -1).sum(1)
        found = torch.zeros(size, device=values.device)
        return found.index_add_(0, self.labels.clamp(min=0), values * (self.labels >= 0))

    def scale(self, factors: Tensor) -> None:
        """Multiply what belongs to each index by its factor, (size,)."""
        each = torch.where(self.labels >= 0, factors[self.labels.clamp(min=0)], 1.0)
        self.weight.mul_(each.reshape([-1 if dim == self.dim else 1 for dim in range(self.weight.dim())]))


@final
class _OfChannels:
    """Σ √n ‖w‖₂ over the channels that can only be cut together, n weights each (Yuan & Lin 2006; Wen et al. 2016).

    All weights of an index count, those that make it and those that read it (Fang et al. 2023, arXiv 2301.12900,
    section 3.3), so that a weight lies in two groups; the proximal steps of the groups follow each other.
    """

    def __init__(self, strength: float, network: Network, mounted: TrainableNetwork) -> None:
        self._strength = strength
        trained = dict(mounted.graph.named_parameters(remove_duplicate=False))
        self._groups: list[tuple[int, float, list[_Part]]] = []
        for group in outer_groups(Channels(network)):
            members = [each for each in group.members if _is_trained(trained, each.path)]
            parts = [_Part(trained[each.path], each.dim, each.labels.to(trained[each.path].device)) for each in members]
            if parts:
                weights = sum(part.weight.numel() for part in parts) / group.size
                self._groups.append((group.size, math.sqrt(weights), parts))

    def shrink(self, rate: float) -> None:
        """Each group shorter by rate · strength · √n, and no shorter than nothing."""
        with torch.no_grad():
            for size, root, parts in self._groups:
                lengths = torch.stack([part.squares(size) for part in parts]).sum(0).sqrt()
                factors = (1 - rate * self._strength * root / lengths.clamp_min(_TINY)).clamp_min(0)
                for part in parts:
                    part.scale(factors)


def _is_trained(trained: Mapping[str, Tensor], path: str) -> bool:
    """Weights that are stored otherwise than as floats are trained elsewhere, under their own rules."""
    return path in trained and trained[path].requires_grad
