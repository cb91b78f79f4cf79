"""Scales of integer grids by the least squared error of rounding, which at few bits is far from the largest magnitude.

Rows are blocks of weights that share a scale: (blocks, weights). All arithmetic is in doubles, in chunks of rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.network.encodings import SMALLEST_SCALE

# Shares of the whole range that are tried, and how often the best is refined.
_SHARES = torch.linspace(1.0, 0.3, 36, dtype=torch.float64)
_REFINEMENTS = 3
# Factors of a scale that are tried once the zero point is known.
_NEARBY = torch.linspace(0.75, 1.25, 21, dtype=torch.float64).tolist()
# Powers of two below the one that clips nothing.
_EXPONENTS = 4
_CHUNK = 1 << 21
_TERNARY = 1


def symmetric_scales(rows: Tensor, top: int, *, power_of_two: bool) -> Tensor:
    """Scales (blocks,) of the integers −top … top."""
    if power_of_two:
        return _by_chunks(rows, lambda part: _symmetric_powers(part, top))
    if top == _TERNARY:
        return _by_chunks(rows, ternary_scales)
    return _by_chunks(rows, lambda part: _symmetric_search(part, top))


def asymmetric_grids(rows: Tensor, levels: int, *, power_of_two: bool, search: bool) -> tuple[Tensor, Tensor]:
    """Scales and zero points (blocks,) of the integers 0 … levels; zero is always one of the values.

    Without `search` the grid spans each block from its least to its largest value.
    """

    def make(part: Tensor) -> Tensor:
        low, high = part.amin(1).clamp_max(0.0), part.amax(1).clamp_min(0.0)
        if power_of_two:
            return _asymmetric_powers(part, low, high, levels)
        return _asymmetric_search(part, low, high, levels) if search else _grid(low, high, levels)

    found = _by_chunks(rows, make)
    return found[:, 0], found[:, 1]


def ternary_scales(rows: Tensor) -> Tensor:
    """The exact optimum of −1, 0, 1 times a scale: the mean of the k largest magnitudes that explains most.

    Of the k largest, with the sum s, s²/k of the squares is explained (TWN, arXiv 1605.04711, eq. 5).
    """
    sums = rows.abs().sort(1, descending=True).values.cumsum(1)
    counts = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype)
    best = (sums.square() / counts).argmax(1, keepdim=True)
    return (sums.gather(1, best) / (best + 1)).squeeze(1)


def _by_chunks(rows: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    step = max(_CHUNK // max(rows.shape[1], 1), 1)
    return torch.cat([make(part.double()) for part in torch.split(rows, step)]).float()


def _symmetric_search(rows: Tensor, top: int) -> Tensor:
    largest = rows.abs().amax(1)

    def codes(scale: Tensor) -> Tensor:
        return torch.round(rows / scale.clamp_min(SMALLEST_SCALE).unsqueeze(1)).clamp(-top, top)

    def error(scale: Tensor) -> Tensor:
        return (codes(scale) * scale.unsqueeze(1) - rows).square().sum(1)

    best = _least([largest / top * share for share in _SHARES], error)
    for _ in range(_REFINEMENTS):
        # For given integers the best scale is a projection.
        integers = codes(best)
        squares = integers.square().sum(1)
        refined = torch.where(squares > 0, (integers * rows).sum(1) / squares.clamp_min(1.0), best)
        best = _least([best, refined], error)
    return best


def _symmetric_powers(rows: Tensor, top: int) -> Tensor:
    def error(scale: Tensor) -> Tensor:
        integers = torch.round(rows / scale.unsqueeze(1)).clamp(-top, top)
        return (integers * scale.unsqueeze(1) - rows).square().sum(1)

    return _least(_powers(rows.abs().amax(1) / top), error)


def _powers(scale: Tensor) -> list[Tensor]:
    exponent = torch.ceil(torch.log2(scale.clamp_min(SMALLEST_SCALE)))
    return [torch.exp2(exponent - below).clamp_min(SMALLEST_SCALE) for below in range(_EXPONENTS)]


def _grid(low: Tensor, high: Tensor, levels: int) -> Tensor:
    """(blocks, 2): scale and zero point of the grid that spans these ends."""
    scale = ((high - low) / levels).float().clamp_min(SMALLEST_SCALE).double()
    return torch.stack([scale, (-low / scale).round().clamp(0, levels)], 1)


def _asymmetric_error(rows: Tensor, grid: Tensor, levels: int) -> Tensor:
    scale, zero = grid[:, :1], grid[:, 1:]
    integers = (torch.round(rows / scale) + zero).clamp(0, levels)
    return ((integers - zero) * scale - rows).square().sum(1)


def _asymmetric_search(rows: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    def error(grid: Tensor) -> Tensor:
        return _asymmetric_error(rows, grid, levels)

    ends = torch.stack([low, high], 1)
    # Both ends together, then each alone.
    for moved in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])):
        tried = [ends * (1 - moved * (1 - share)) for share in _SHARES]
        errors = torch.stack([error(_grid(each[:, 0], each[:, 1], levels)) for each in tried])
        ends = torch.stack(tried)[errors.argmin(0), torch.arange(rows.shape[0])]
    best = _grid(ends[:, 0], ends[:, 1], levels)
    step = torch.tensor([1.0, 0.0], dtype=torch.float64)
    tried = [best * (1 + step * (factor - 1)) for factor in _NEARBY]
    errors = torch.stack([error(each) for each in tried])
    best = torch.stack(tried)[errors.argmin(0), torch.arange(rows.shape[0])]
    for _ in range(_REFINEMENTS):
        distances = (torch.round(rows / best[:, :1]) + best[:, 1:]).clamp(0, levels) - best[:, 1:]
        squares = distances.square().sum(1)
        scale = torch.where(squares > 0, (distances * rows).sum(1) / squares.clamp_min(1.0), best[:, 0])
        refined = torch.stack([scale.clamp_min(SMALLEST_SCALE), best[:, 1]], 1)
        best = torch.where((error(refined) < error(best)).unsqueeze(1), refined, best)
    return best


def _asymmetric_powers(rows: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    scales = _powers((high - low) / levels)
    # What is rounded outwards at both ends may need a coarser grid by one.
    scales.append(scales[0] * 2)
    grids = []
    for scale in scales:
        lowest, highest = -low / scale, levels - high / scale
        grids += [torch.stack([scale, zero.round().clamp(0, levels)], 1) for zero in (lowest, highest)]
        grids.append(torch.stack([scale, ((lowest + highest) / 2).round().clamp(0, levels)], 1))
    errors = torch.stack([_asymmetric_error(rows, grid, levels) for grid in grids])
    return torch.stack(grids)[errors.argmin(0), torch.arange(rows.shape[0])]


def _least(scales: list[Tensor], error: Callable[[Tensor], Tensor]) -> Tensor:
    """Of several scales of each block (blocks,) the one with the least error; the first of equal ones."""
    best, least = scales[0], error(scales[0])
    for scale in scales[1:]:
        found = error(scale)
        best, least = torch.where(found < least, scale, best), torch.minimum(found, least)
    return best
