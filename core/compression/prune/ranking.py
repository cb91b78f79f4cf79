"""Which units go: the weakest of all layers, of each layer, of each output, or of each m in a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from core.compression.prune.units import Units


@final
@dataclass(frozen=True)
class Scored:
    """The units of one weight: what they are worth in all (units …), and of how many weights each consists."""

    units: Units
    worth: Tensor
    weights: Tensor

    @classmethod
    def of(cls, units: Units, values: Tensor) -> "Scored":
        """`values` are those of the single weights."""
        return cls(units, units.total(values.double()), units.total(torch.ones_like(values)))

    @property
    def mean(self) -> Tensor:
        """What a weight of each unit is worth."""
        return self.worth / self.weights.clamp_min(1)

    def lamp(self) -> Tensor:
        """The worth of each unit as a share of that of all units that are worth no less (arXiv 2010.07611, eq. 1).

        Units that are worth as much share theirs in the order in which they are stored.
        """
        flat = self.mean.flatten()
        order = flat.argsort(descending=True, stable=True)
        above = flat[order].cumsum(0)
        shares = torch.where(above > 0, flat[order] / above.clamp_min(torch.finfo(above.dtype).tiny), 0.0)
        return torch.empty_like(flat).scatter_(0, order, shares).reshape(self.worth.shape)

    def mask(self, kept: Tensor) -> Tensor:
        """The weights of the units that are kept, booleans in the shape of the weight."""
        return self.units.spread(kept)


def keep_of_all(scores: Mapping[str, Tensor], scored: Mapping[str, Scored], share: float) -> dict[str, Tensor]:
    """The best units of all weights together, of about `share` of the weights; of each weight at least the best one."""
    names = list(scores)
    flat = torch.cat([scores[name].flatten() for name in names])
    sizes = torch.cat([scored[name].weights.flatten() for name in names]).double()
    order = flat.argsort(descending=True, stable=True)
    fits = sizes[order].cumsum(0) <= share * sizes.sum() + 0.5
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, fits)
    parts = torch.split(kept, [scores[name].numel() for name in names])
    found = {name: part.reshape(scores[name].shape) for name, part in zip(names, parts, strict=True)}
    for name, part in found.items():
        if not bool(part.any()):
            part.view(-1)[scores[name].argmax()] = True
    return found


def keep_of_each(score: Tensor, share: float) -> Tensor:
    """The best units of one weight, at least one."""
    count = max(round(share * score.numel()), 1)
    order = score.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(score.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return kept.reshape(score.shape)


def keep_of_outputs(score: Tensor, share: float) -> Tensor:
    """The best units of each output (axis 0), at least one of each."""
    rows = score.flatten(1)
    count = max(round(share * rows.shape[1]), 1)
    order = rows.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], value=True)
    return kept.reshape(score.shape)


def keep_n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """The best n of each m weights of an output in the order in which they lie; of fewer at the end no more than n."""
    rows = score.flatten(1)
    columns = rows.shape[1]
    padded = F.pad(rows, (0, -columns % m), value=-1.0).reshape(len(rows), -1, m)
    order = padded.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(padded, dtype=torch.bool).scatter_(2, order[..., :n], value=True)
    return kept.flatten(1)[:, :columns].reshape(score.shape)
