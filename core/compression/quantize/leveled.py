"""`quantize.log2`, `quantize.ternary`, `quantize.binary`: values that are fixed but for a scale."""

from typing import final

import torch
from torch import Tensor

from core.compression.candidates import weight_axis
from core.compression.quantize.few_values import Given, ValueQuantizer
from core.compression.quantize.level_scales import level_scales
from core.compression.quantize.scale_search import symmetric_scales
from core.network.encodings import SMALLEST_SCALE, AffineInteger, Blocks, Levels, packed_grid
from core.network.encodings.levels import log2_levels
from core.specs.levels import BinaryQuantization, LogQuantization, TernaryQuantization

_TERNARY_BITS = 2


@final
class LogQuantizer(ValueQuantizer[LogQuantization]):
    """Powers of two times the scale of the least squared error."""

    def encode(self, given: Given, spec: LogQuantization) -> Levels:
        """What a mask leaves out is zero, which is a level and costs nothing in any scale."""
        weight, axis, blocks = _blocks(given, spec.per)
        levels = log2_levels(spec.bits, spec.per_octave)
        scale = level_scales(blocks.flat(weight), levels, power_of_two=spec.scale == "power_of_two")
        return Levels.log2(weight, bits=spec.bits, axis=axis, per_octave=spec.per_octave, scale=scale)


@final
class TernaryQuantizer(ValueQuantizer[TernaryQuantization]):
    """−1, 0, 1 times a scale: which weights are zero is the exact optimum."""

    def encode(self, given: Given, spec: TernaryQuantization) -> AffineInteger:
        """Rounding to the nearest at the best scale has the best threshold, half the scale."""
        weight, axis, blocks = _blocks(given, spec.per)
        scale = blocks.shaped(symmetric_scales(blocks.flat(weight), 1, power_of_two=False).clamp_min(SMALLEST_SCALE))
        return AffineInteger.of(weight, grid=packed_grid(_TERNARY_BITS), axis=axis, scale=scale)


@final
class BinaryQuantizer(ValueQuantizer[BinaryQuantization]):
    """Plus or minus the mean magnitude."""

    def encode(self, given: Given, spec: BinaryQuantization) -> Levels:
        """The mean over what a mask keeps."""
        weight, axis, blocks = _blocks(given, spec.per)
        kept = blocks.flat(torch.ones_like(weight) if given.mask is None else given.mask.to(weight))
        total = (blocks.flat(weight).abs() * kept).sum(1, dtype=torch.float64)
        scale = (total / kept.sum(1, dtype=torch.float64).clamp_min(1)).float().clamp_min(SMALLEST_SCALE)
        return Levels.binary(weight, axis=axis, scale=scale)


def _blocks(given: Given, per: str) -> tuple[Tensor, int | None, Blocks]:
    """The weight, the axis along which scales differ, and the blocks that share one."""
    weight = given.candidate.weight
    axis = None if per == "tensor" else weight_axis(given.candidate.layer)
    return weight, axis, Blocks(tuple(weight.shape), axis)
