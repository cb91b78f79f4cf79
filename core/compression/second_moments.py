"""Second moments of the inputs of layers: all that the squared error of a layer's output depends on."""

import itertools
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from core.errors import ModelpressError

# Columns whose moments are held together; of a wider product blocks of columns are taken for independent.
WIDEST = 4096


@dataclass(frozen=True)
class Moments:
    """Of the inputs x̂ of a layer beside the inputs x of the original, from `columns.start` to before `columns.stop`.

    `second` is E[x̂x̂ᵀ] and `cross` E[(x − x̂)x̂ᵀ], both (groups, columns, columns); `beside` is E[(r − r̂)x̂ᵀ] of what
    the outputs are added to, (groups, outputs, columns), None where they are added to nothing. float64.
    """

    second: Tensor
    cross: Tensor
    beside: Tensor | None
    columns: slice

    def missed(self, matrix: Tensor) -> Tensor:
        """E[(t − W·x̂)x̂ᵀ] with t = W·x + r − r̂, which the original gives; `matrix` is W (groups, outputs, columns)."""
        found = matrix.double() @ self.cross
        return found if self.beside is None else found + self.beside


@final
class MomentSum:
    """Adds up moments, in memory that does not grow with the rows."""

    def __init__(self, groups: int, columns: int) -> None:
        pieces = -(-columns // WIDEST)
        bounds = [round(columns * number / pieces) for number in range(pieces + 1)]
        self._parts = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        sizes = [part.stop - part.start for part in self._parts]
        self._second = [torch.zeros(groups, size, size, dtype=torch.float64) for size in sizes]
        self._cross = [torch.zeros_like(second) for second in self._second]
        self._beside: Tensor | None = None
        self._rows = 0

    def add(self, rows: Tensor, original: Tensor, beside: Tensor | None = None) -> None:
        """Rows of x̂ and of x, (groups, rows, columns), and of r − r̂, (groups, rows, outputs)."""
        self._rows += rows.shape[1]
        for number, part in enumerate(self._parts):
            own = rows[..., part]
            self._second[number] += own.mT @ own
            self._cross[number] += (original[..., part] - own).mT @ own
        if beside is not None:
            product = (beside.mT @ rows).double()
            self._beside = product if self._beside is None else self._beside + product

    def moments(self) -> tuple[Moments, ...]:
        """The moments so far, of each block of columns; raises `non_finite` where squares leave floats."""
        beside = [] if self._beside is None else [self._beside]
        if not all(bool(torch.isfinite(part).all()) for part in (*self._second, *self._cross, *beside)):
            raise ModelpressError(
                "non_finite", "Calibration samples give inputs of a layer whose squares are no numbers."
            )
        count = max(self._rows, 1)
        return tuple(
            Moments(second / count, cross / count, beside[0][..., part] / count if beside else None, part)
            for part, second, cross in zip(self._parts, self._second, self._cross, strict=True)
        )
