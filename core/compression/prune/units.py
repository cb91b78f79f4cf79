"""What stays or goes whole: single weights, blocks, vectors of kernels, kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from core.compression.matrices import Product, as_matrix, as_weight
from core.specs.mask_pruning import KernelPruning, MaskPruning, VectorPruning, WeightPruning


@final
@dataclass(frozen=True)
class Units:
    """A division of a weight whose output channels lie along axis 0, as a view in which units lie along some axes.

    `padded` are the sizes (outputs, columns) that a matrix is filled up to with zeros, None where the view fits.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    inside: tuple[int, ...]
    padded: tuple[int, int] | None = None

    @classmethod
    def single(cls, shape: Sequence[int]) -> "Units":
        """Each weight for itself."""
        return cls(tuple(shape), tuple(shape), ())

    @classmethod
    def along(cls, shape: Sequence[int], axes: Sequence[int]) -> "Units":
        """The weights along these axes together."""
        return cls(tuple(shape), tuple(shape), tuple(axes))

    @classmethod
    def blocks(cls, shape: Sequence[int], height: int, width: int) -> "Units":
        """Blocks of the matrix (outputs, columns); at its ends they may be smaller."""
        rows, columns = shape[0], math.prod(shape[1:])
        down, across = -(-rows // height), -(-columns // width)
        view = (down, height, across, width)
        return cls(tuple(shape), view, (1, 3), (down * height, across * width))

    def total(self, values: Tensor) -> Tensor:
        """Of a value for each weight, in its shape, the sum over each unit."""
        viewed = values
        if self.padded is not None:
            matrix = values.flatten(1)
            viewed = F.pad(matrix, (0, self.padded[1] - matrix.shape[1], 0, self.padded[0] - matrix.shape[0]))
        viewed = viewed.reshape(self.view)
        return viewed.sum(self.inside) if self.inside else viewed

    def spread(self, chosen: Tensor) -> Tensor:
        """Of a value for each unit, that value for each of its weights, in the shape of the weight."""
        for axis in self.inside:
            chosen = chosen.unsqueeze(axis)
        wide = chosen.expand(self.view)
        if self.padded is not None:
            matrix = wide.reshape(self.padded)[: self.shape[0], : math.prod(self.shape[1:])]
            return matrix.reshape(self.shape)
        return wide.reshape(self.shape)


def units_of(spec: MaskPruning, shape: Sequence[int]) -> Units:
    """How the spec divides a weight (outputs, inputs, taps …)."""
    taps = tuple(range(2, len(shape)))
    match spec:
        case WeightPruning(block=(height, width)):
            return Units.blocks(shape, height, width)
        case VectorPruning():
            return Units.along(shape, taps[-1:] if spec.direction == "rows" else taps[-2:-1])
        case KernelPruning():
            return Units.along(shape, taps)
        case _:
            return Units.single(shape)


def outputs_first(layer: Product, values: Tensor) -> Tensor:
    """A weight, or anything in its shape, as (outputs, inputs of a group, taps …)."""
    matrix = as_matrix(layer, values).flatten(0, 1)
    return matrix if isinstance(layer, nn.Linear) else matrix.reshape(len(matrix), -1, *layer.kernel_size)


def from_outputs(layer: Product, values: Tensor) -> Tensor:
    """The opposite of `outputs_first`."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return as_weight(layer, values.reshape(groups, len(values) // groups, -1))
