"""Grids of integers: which may be used, and how they are stored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.network.encodings.blocks import SMALLEST_SCALE, Blocks


@dataclass(frozen=True)
class Grid:
    """Which integers may be used and how they are stored: `low` … `high` around `zero_point`.

    With `packed` only the bits that they need are stored. `group` weights in a row have their own scale, if not None.
    With `power_of_two` scales are powers of two, and stay such when they are trained.
    """

    low: int
    high: int
    zero_point: int
    storage: torch.dtype
    packed: bool = False
    group: int | None = None
    power_of_two: bool = False

    @property
    def bits(self) -> int:
        """Bits that the used integers need."""
        return (self.high - self.low).bit_length()


def symmetric_grid(bits: int, *, unsigned: bool = False) -> Grid:
    """The symmetric grid of `bits` (2 … 8) in int8, or shifted by 128 in uint8."""
    top = 2 ** (bits - 1) - 1
    if unsigned:
        return Grid(128 - top, 128 + top, 128, torch.uint8)
    return Grid(-top, top, 0, torch.int8)


def packed_grid(bits: int, *, asymmetric: bool = False, group: int | None = None) -> Grid:
    """The grid of `bits` (2 … 8) that takes no more: −top … top, or 0 … 2^bits − 1 around zero points of each block."""
    if asymmetric:
        return Grid(0, 2**bits - 1, 0, torch.uint8, packed=True, group=group)
    top = 2 ** (bits - 1) - 1
    return Grid(-top, top, 0, torch.int8, packed=True, group=group)


def scales_of(weight: Tensor, grid: Grid, axis: int | None) -> Tensor:
    """Scales by largest magnitude: shape (channels,) along `axis`, () for the whole tensor, (channels, groups)."""
    blocks = Blocks(tuple(weight.shape), axis, grid.group)
    magnitude = blocks.shaped(blocks.flat(weight.detach().abs()).amax(1))
    return (magnitude / (grid.high - grid.zero_point)).clamp_min(SMALLEST_SCALE)
