"""Scales of grids as factors of the rows of a layer's matrix: where each row has its own, they are chosen with it."""

import torch
from torch import Tensor

from core.compression.matrices import Product, as_matrix, as_weight
from core.network.encodings import SMALLEST_SCALE, AffineInteger, Elementwise, Levels
from core.network.encodings.blocks import Blocks

# Finer grids gain nothing.
MOST_BITS = 6


def has_row_scales(layer: Product, template: Elementwise) -> bool:
    """Whether every scale is that of one row of the layer's matrix alone, of few levels, and no power of two."""
    if not isinstance(template, AffineInteger | Levels) or template.bits is None or template.bits > MOST_BITS:
        return False
    mantissas, _ = torch.frexp(template.scale)
    if bool((mantissas == 0.5).all()):
        return False
    rows = _blocks(template).flat(as_weight(layer, _row_numbers(layer)))
    return bool((rows == rows[:, :1]).all())


def rescale_rows(layer: Product, template: Elementwise, values: Tensor, factors: Tensor) -> Elementwise:
    """The encoding of `values` (groups, outputs, columns) at the scales times a factor for each row (groups, outputs).

    Of templates with `has_row_scales`.
    """
    if not isinstance(template, AffineInteger | Levels):
        raise TypeError(f"{template.name} has no scales")
    blocks = _blocks(template)
    spread = as_weight(layer, factors.unsqueeze(-1).expand(values.shape))
    own = blocks.shaped(blocks.flat(spread)[:, 0])
    return template.rescaled(as_weight(layer, values), (template.scale * own).clamp_min(SMALLEST_SCALE))


def _blocks(template: AffineInteger | Levels) -> Blocks:
    group = template.grid.group if isinstance(template, AffineInteger) else None
    return Blocks(template.shape, template.axis, group)


def _row_numbers(layer: Product) -> Tensor:
    """For each weight the number of its row, as a matrix."""
    groups, outputs, columns = as_matrix(layer, layer.weight).shape
    return torch.arange(groups * outputs).reshape(groups, outputs, 1).expand(groups, outputs, columns)
