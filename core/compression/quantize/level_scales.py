"""Scales of levels that are no even grid, by the least squared error of rounding to them."""

import math
from typing import Final

import torch
from torch import Tensor

from core.network.encodings import SMALLEST_SCALE

# Scales that are tried, as powers of two of the largest magnitude: with few levels the best cuts much of the tail off.
_EXPONENTS: Final = torch.arange(-24, 6, dtype=torch.float64) / 8
_WHOLE_EXPONENTS: Final = range(-3, 2)
_REFINEMENTS = 4
_FINER = 2
_CHUNK = 1 << 21


def level_scales(rows: Tensor, levels: Tensor, *, power_of_two: bool) -> Tensor:
    """For each row of weights (blocks, weights) the scale (blocks,) of `levels`, ascending and symmetric around zero.

    All of some scales are tried; for given codes the best scale is a projection, by which the best is refined unless it
    has to be a power of two.
    """
    step = max(_CHUNK // max(rows.shape[1], 1), 1)
    found = [_search(part.detach().float(), levels, power_of_two=power_of_two) for part in torch.split(rows, step)]
    return torch.cat(found).clamp_min(SMALLEST_SCALE)


def _search(rows: Tensor, levels: Tensor, *, power_of_two: bool) -> Tensor:
    largest = rows.abs().amax(1).clamp_min(SMALLEST_SCALE)
    if power_of_two:
        whole = torch.floor(torch.log2(largest))
        tried = [torch.exp2(whole + exponent) for exponent in _WHOLE_EXPONENTS]
    else:
        tried = [(largest * float(torch.exp2(exponent))) for exponent in _EXPONENTS]
    best, least = tried[0], torch.full_like(largest, torch.inf, dtype=torch.float64)
    for scale in tried:
        best, least = _better(rows, levels, scale, (best, least))
    for scale in [] if power_of_two else [best * step for step in _steps(levels)]:
        best, least = _better(rows, levels, scale, (best, least))
    for _ in range(0 if power_of_two else _REFINEMENTS):
        values = _nearest(rows, levels, best)
        squares = values.square().sum(1, dtype=torch.float64)
        projected = (values * rows).sum(1, dtype=torch.float64) / squares.clamp_min(1e-30)
        refined = torch.where(squares > 0, projected, best.double()).float().clamp_min(SMALLEST_SCALE)
        best, least = _better(rows, levels, refined, (best, least))
    return best


def _steps(levels: Tensor) -> list[float]:
    """Factors up to an eighth of an octave; the more levels there are to an octave, the closer."""
    above, below = float(levels[-1]), float(levels[-2])
    finer = max(round(1 / math.log2(above / below)), 1) if below > 0 else 1
    return [2.0 ** (step / (8 * _FINER * finer)) for step in range(-_FINER * finer, _FINER * finer + 1)]


def _better(rows: Tensor, levels: Tensor, scale: Tensor, best: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The better of this scale and the best so far, with its squared error, for each row."""
    scale = scale.clamp_min(SMALLEST_SCALE)
    error = (_nearest(rows, levels, scale) * scale.unsqueeze(1) - rows).square().sum(1, dtype=torch.float64)
    return torch.where(error < best[1], scale, best[0]), torch.minimum(error, best[1])


def _nearest(rows: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """The nearest level of each weight, in units of the scale."""
    return levels[torch.bucketize(rows / scale.unsqueeze(1), (levels[1:] + levels[:-1]) / 2)]
