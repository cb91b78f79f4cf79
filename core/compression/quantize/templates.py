"""The integers that a weight is rounded to where nothing but the weight is known: its grid, its scales, the nearest."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.compression.candidates import weight_axis
from core.compression.quantize.scale_search import asymmetric_grids, symmetric_scales
from core.compression.quantize.scales import scale_axis
from core.errors import ModelpressError
from core.network.encodings import (
    SMALLEST_SCALE,
    AffineInteger,
    Blocks,
    Grid,
    largest_group,
    packed_grid,
    symmetric_grid,
)
from core.specs.linear import USUAL_GROUP, WeightGrid

FULL_BITS = 8
# Up to here scales are those of the least squared error.
SEARCHED_BITS = 6
# Numbers of a weight that are rounded at once, so that of a table of gigabytes no copy in doubles is made.
_CHUNK = 1 << 22


def make_template(layer: nn.Module, weight: Tensor, asked: WeightGrid, *, grid: Grid | None = None) -> AffineInteger:
    """The nearest integers to `weight` on the grid that is asked for; `grid` replaces a symmetric one of 8 bits.

    Raises `non_finite` where the weight is so large that its grid leaves fp32.
    """
    weight = weight.detach()
    axis, group = _blocks(layer, weight, asked, grid)
    chosen = replace(grid or _grid(asked, group), power_of_two=asked.scale == "power_of_two")
    rows = max(_CHUNK // max(weight[:1].numel(), 1), 1)
    if axis != 0 or weight.shape[0] <= rows:
        made = _make(weight, asked, axis, chosen)
    else:
        made = _join([_make(part, asked, axis, chosen) for part in torch.split(weight, rows)])
    if not bool(torch.isfinite(made.scale).all()) or not bool(torch.isfinite(made.decode()).all()):
        raise ModelpressError("non_finite", f"A weight of shape {tuple(weight.shape)} is too large for its grid.")
    return made


def _blocks(layer: nn.Module, weight: Tensor, asked: WeightGrid, grid: Grid | None) -> tuple[int | None, int | None]:
    """Along which axis scales differ, and how many weights in a row share one."""
    if asked.per == "group":
        inner = math.prod(weight.shape[1:])
        group = largest_group(inner, asked.group_size or USUAL_GROUP)
        return (0, group) if group < inner else (weight_axis(layer), None)
    if asked.per == "tensor":
        return None, None
    if asked.per == "auto" and isinstance(layer, nn.Linear):
        return scale_axis(layer, grid or packed_grid(asked.bits)), None
    return weight_axis(layer), None


def _grid(asked: WeightGrid, group: int | None) -> Grid:
    if not asked.symmetric:
        return packed_grid(asked.bits, asymmetric=True, group=group)
    if asked.bits == FULL_BITS and group is None:
        return symmetric_grid(FULL_BITS)
    return packed_grid(asked.bits, group=group)


def _make(weight: Tensor, asked: WeightGrid, axis: int | None, grid: Grid) -> AffineInteger:
    power_of_two, search = asked.scale == "power_of_two", asked.bits <= SEARCHED_BITS
    blocks = Blocks(tuple(weight.shape), axis, grid.group)
    if asked.symmetric and not power_of_two and not search:
        return AffineInteger.of(weight, grid=grid, axis=axis)
    rows = blocks.flat(weight)
    if asked.symmetric:
        scale = symmetric_scales(rows, grid.high - grid.zero_point, power_of_two=power_of_two)
        return AffineInteger.of(weight, grid=grid, axis=axis, scale=blocks.shaped(scale.clamp_min(SMALLEST_SCALE)))
    scale, zeros = asymmetric_grids(rows, grid.high, power_of_two=power_of_two, search=search)
    shaped, empty = blocks.shaped(scale.clamp_min(SMALLEST_SCALE)), torch.empty(weight.shape)
    if axis is None:
        # One zero point for all is the grid's own, which kernels take.
        own = Grid(0, grid.high, int(zeros), torch.uint8, packed=asked.bits < FULL_BITS, power_of_two=power_of_two)
        return AffineInteger(empty, shaped, grid=own, axis=None).at(weight)
    points = blocks.shaped(zeros.to(torch.uint8))
    return AffineInteger(empty, shaped, grid=grid, axis=axis, zero_points=points).at(weight)


def _join(parts: list[AffineInteger]) -> AffineInteger:
    """One weight of parts along axis 0."""
    integers, scale = torch.cat([part.integers for part in parts]), torch.cat([part.scale for part in parts])
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    points = torch.cat(zeros) if zeros else None
    return AffineInteger(integers, scale, grid=parts[0].grid, axis=0, zero_points=points)
