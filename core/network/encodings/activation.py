"""The grid of an activation: a layer in the network's graph that rounds what passes through it."""

from typing import final

import torch
from torch import Tensor, nn

ACTIVATION_LEVELS = 255
SMALLEST_SCALE = 2.0**-80


@final
class ActivationGrid(nn.Module):
    """Rounds a tensor of any shape to 256 values: uint8, one scale, one zero point (arXiv 1712.05877, eq. 1)."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.uint8))

    @classmethod
    def of_range(cls, low: float, high: float) -> "ActivationGrid":
        """The grid that spans `low` … `high`, widened to hold zero, which must be exact because padding is zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        # Of a value that is always zero nothing is known; 1 keeps products of scales far from underflow.
        scale = max((high - low) / ACTIVATION_LEVELS, SMALLEST_SCALE) if high > low else 1.0
        return cls(scale, round(min(max(-low / scale, 0.0), ACTIVATION_LEVELS)))

    def integers(self, x: Tensor) -> Tensor:
        """The uint8 integers of `x`, as floats."""
        zero = self.zero_point.to(torch.float32)
        return torch.clamp(torch.round(x / self.scale) + zero, 0, ACTIVATION_LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded to the grid, by plain ATen operators."""
        zero = self.zero_point.to(torch.float32)
        return (self.integers(x) - zero) * self.scale
