"""The grid of an activation: a layer in the network's graph that rounds what passes through it."""

from typing import final

import torch
from torch import Tensor, nn

BYTE_BITS = 8
# The integer of 0 … 255 that is 0 of −128 … 127.
SIGNED_ZERO = 128
SMALLEST_SCALE = 2.0**-80


@final
class ActivationGrid(nn.Module):
    """Rounds a tensor of any shape to 2^bits values: one scale, one zero point (arXiv 1712.05877, eq. 1).

    Of fewer than 8 bits the integers are the lowest of uint8, of more they are uint16. With `power_of_two` the scale is
    a power of two, and stays such when it is trained. `signed` is for 8 bits whose zero point is 128: files hold int8
    around 0, which is the same grid and, in some runtimes, without the cost of a zero point.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        bits: int = BYTE_BITS,
        *,
        power_of_two: bool = False,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.power_of_two = power_of_two
        self.signed = signed
        storage = torch.uint8 if bits <= BYTE_BITS else torch.uint16
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=storage))

    @classmethod
    def of_range(
        cls, low: float, high: float, bits: int = BYTE_BITS, *, power_of_two: bool = False, signed: bool = False
    ) -> "ActivationGrid":
        """The grid that spans `low` … `high`, widened to hold zero, which must be exact because padding is zero.

        With `power_of_two` the ends must be such that the scale is one. `signed` holds where zero is in the middle.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        top = 2**bits - 1
        # Of a value that is always zero nothing is known; 1 keeps products of scales far from underflow.
        scale = max((high - low) / top, SMALLEST_SCALE) if high > low else 1.0
        zero = round(min(max(-low / scale, 0.0), top))
        signed = signed and bits == BYTE_BITS and zero == SIGNED_ZERO
        return cls(scale, zero, bits, power_of_two=power_of_two, signed=signed)

    @property
    def top(self) -> int:
        """The largest integer."""
        return (1 << self.bits) - 1

    @property
    def has_kernel(self) -> bool:
        """Whether runtimes multiply its integers as they are."""
        return self.bits <= BYTE_BITS

    def integers(self, x: Tensor) -> Tensor:
        """The integers of `x`, as floats."""
        zero = self.zero_point.to(torch.float32)
        return torch.clamp(torch.round(x / self.scale) + zero, 0, self.top)

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded to the grid, by plain ATen operators."""
        zero = self.zero_point.to(torch.float32)
        return (self.integers(x) - zero) * self.scale


@final
class DynamicGrid(nn.Module):
    """Rounds a tensor to 8 bits between its own least and largest value: DynamicQuantizeLinear of ONNX."""

    _TOP = float(2**BYTE_BITS - 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded, by plain ATen operators; in training with a straight-through gradient."""
        scale, zero = self._grid(x.detach())
        rounded = (torch.clamp(torch.round(x / scale) + zero, 0.0, self._TOP) - zero) * scale
        return x + (rounded - x).detach() if torch.is_grad_enabled() and x.requires_grad else rounded

    def grid_of(self, x: Tensor) -> ActivationGrid:
        """The grid that `x` is rounded to."""
        scale, zero = self._grid(x)
        return ActivationGrid(float(scale), int(zero))

    def _grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = x.amin().clamp_max(0.0), x.amax().clamp_min(0.0)
        scale = torch.where(high > low, (high - low) / self._TOP, torch.ones_like(high))
        return scale, torch.clamp(torch.round(-low / scale), 0.0, self._TOP)
