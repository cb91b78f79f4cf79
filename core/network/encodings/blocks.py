"""Which weights share a scale: all of them, those of a channel, or groups in a row within a channel."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# The smallest scale: below it fp32 division loses the grid. A channel of zeros gets it too.
SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny) * 2.0**24


@final
@dataclass(frozen=True)
class Blocks:
    """Of a weight of `shape`: one block (`axis` None), one a channel, or `group` weights in a row in channel of axis 0.

    Scales have the shape (), (channels,) or (channels, groups).
    """

    shape: tuple[int, ...]
    axis: int | None
    group: int | None = None

    def __post_init__(self) -> None:
        if self.group is not None and (self.axis != 0 or math.prod(self.shape[1:]) % self.group):
            raise ValueError(f"channels of {math.prod(self.shape[1:])} weights have no groups of {self.group}")

    @property
    def view(self) -> tuple[int, ...]:
        """The shape of the weight in which scales broadcast."""
        return self.shape if self.group is None else (self.shape[0], -1, self.group)

    def spread(self, scale: Tensor) -> Tensor:
        """The scales in a shape that broadcasts to `view`."""
        return scale.reshape(self.spread_shape)

    @property
    def spread_shape(self) -> tuple[int, ...]:
        """The shape of `spread`."""
        if self.axis is None:
            return ()
        if self.group is not None:
            return (self.shape[0], -1, 1)
        return tuple(size if axis == self.axis else 1 for axis, size in enumerate(self.shape))

    def flat(self, weight: Tensor) -> Tensor:
        """The weight with a row for each block: shape (blocks, weights)."""
        if self.axis is None:
            return weight.reshape(1, -1)
        if self.group is not None:
            return weight.reshape(-1, self.group)
        return weight.movedim(self.axis, 0).flatten(1)

    def shaped(self, values: Tensor) -> Tensor:
        """One value for each block, in the shape of scales."""
        if self.axis is None:
            return values.reshape(())
        return values.reshape(self.shape[0], -1) if self.group is not None else values


def largest_group(inner: int, wanted: int) -> int:
    """The largest group of at most `wanted` weights that divides channels of `inner` weights."""
    return next(size for size in range(min(wanted, inner), 0, -1) if inner % size == 0)
