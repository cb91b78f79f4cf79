"""How many indices of each group stay, so that the costs of the network fall to what was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.compression.prune.timing import Timing
from core.network.surgery import Channels, Costs, Group, round_width

Widths = dict[Group, int]


@final
@dataclass(frozen=True)
class Bounds:
    """What holds for the width of each group whatever its channels are worth: shares of `whole`, its width at first."""

    least: float
    fixed: Mapping[Group, float]
    rounded: bool
    whole: Mapping[Group, int]

    def width(self, group: Group, wanted: float) -> int:
        """The width nearest to `wanted` indices that may be."""
        whole = self.whole[group]
        wanted = self.fixed[group] * whole if group in self.fixed else max(wanted, self.least * whole)
        if self.rounded:
            return round_width(group.size, wanted / group.size)
        return min(max(round(wanted), min(2, group.size)), group.size)


@final
@dataclass(frozen=True)
class Choice:
    """Widths, what the network costs with them, and whether that is no more than was asked for.

    `timing` tells of a budget of time, whose cost is milliseconds.
    """

    widths: Widths
    cost: float
    reached: bool
    timing: Timing | None = None


def choose_together(
    channels: Channels, worth: Mapping[Group, Tensor], bounds: Bounds, cost: Callable[[Costs], int], most: float
) -> Choice:
    """The most of all channels, the worthiest first, with which the network costs at most `most`."""
    groups = list(worth)
    owners = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([group.size for group in groups]))
    ranked = owners[torch.cat([worth[group] for group in groups]).argsort(descending=True, stable=True)]

    def widths(count: int) -> Widths:
        counts = torch.bincount(ranked[:count], minlength=len(groups))
        return {group: bounds.width(group, float(each)) for group, each in zip(groups, counts, strict=True)}

    return _largest(channels, widths, len(ranked), cost, most)


def choose_alike(
    channels: Channels, groups: tuple[Group, ...], bounds: Bounds, cost: Callable[[Costs], int], most: float
) -> Choice:
    """The largest share of every group with which the network costs at most `most`."""
    steps = max(group.size for group in groups)

    def widths(count: int) -> Widths:
        return {group: bounds.width(group, group.size * count / steps) for group in groups}

    return _largest(channels, widths, steps, cost, most)


def _largest(
    channels: Channels, widths: Callable[[int], Widths], count: int, cost: Callable[[Costs], int], most: float
) -> Choice:
    """The widths for the largest number of 1 … `count` that costs at most `most`; for 1 where none does."""
    low, high = 1, count
    found = widths(low)
    paid = cost(channels.costs(found))
    if paid > most:
        return Choice(found, paid, reached=False)
    while high > low:
        middle = (low + high + 1) // 2
        tried = widths(middle)
        now = cost(channels.costs(tried))
        if now <= most:
            low, found, paid = middle, tried, now
        else:
            high = middle - 1
    return Choice(found, paid, reached=True)
