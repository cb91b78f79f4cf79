"""The values that each weight of a matrix may have: the grids of encodings, column by column."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from core.compression.matrices import Product, as_matrix
from core.network.encodings import AffineInteger, Codebook, Elementwise, Levels
from core.network.encodings.blocks import Blocks


class Snapper(ABC):
    """Puts columns (groups, outputs) on the grid of their weights."""

    @abstractmethod
    def snap(self, values: Tensor, column: int) -> Tensor:
        """The nearest values that the weights of a column may have."""

    @abstractmethod
    def ordered(self, order: Tensor) -> "Snapper":
        """The same with the columns of each group in this order (groups, columns)."""

    @abstractmethod
    def scaled(self, factors: Tensor) -> "Snapper":
        """The same with the values of each row times a factor (groups, outputs, 1)."""


def snapper_of(layer: Product, template: Elementwise, mask: Tensor | None) -> Snapper | None:
    """The grid of a layer's weight; None for encodings whose grid is as fine as floats."""
    found: Snapper
    if isinstance(template, AffineInteger):
        found = _Integers.of(layer, template)
    elif isinstance(template, Levels):
        blocks = Blocks(template.shape, template.axis)
        scale = as_matrix(layer, blocks.spread(template.scale).expand(template.shape))
        found = _Table(template.levels.unsqueeze(0), None, scale)
    elif isinstance(template, Codebook):
        book = template.book.reshape(-1, template.book.shape[-1]).sort(-1).values
        found = _Table(book, _book_numbers(layer, template), None)
    else:
        return None
    return found if mask is None else _Kept(found, as_matrix(layer, mask))


def _book_numbers(layer: Product, template: Codebook) -> Tensor | None:
    """Which book each weight has, (groups, outputs, columns); None where there is one."""
    if template.book.dim() == 1:
        return None
    count = template.book.shape[0]
    numbers = torch.arange(count).repeat_interleave(template.shape[0] // count)
    return as_matrix(layer, numbers.reshape(-1, *[1] * (len(template.shape) - 1)).expand(template.shape))


def _gather(value: Tensor, order: Tensor) -> Tensor:
    return value.gather(2, order.unsqueeze(1).expand(*value.shape[:2], order.shape[1]))


@final
class _Integers(Snapper):
    """scale · integer from `low` to `high`, which are counted from the zero point; all (groups, outputs, columns)."""

    def __init__(self, scale: Tensor, low: Tensor, high: Tensor) -> None:
        self._scale, self._low, self._high = scale, low, high

    @classmethod
    def of(cls, layer: Product, template: AffineInteger) -> "_Integers":
        grid = template.grid
        blocks = Blocks(template.shape, template.axis, grid.group)

        def matrix(value: Tensor) -> Tensor:
            return as_matrix(layer, blocks.spread(value.float()).expand(blocks.view).reshape(template.shape))

        zero = (
            torch.full_like(template.scale, grid.zero_point) if template.zero_points is None else template.zero_points
        )
        return cls(matrix(template.scale), matrix(grid.low - zero.float()), matrix(grid.high - zero.float()))

    def snap(self, values: Tensor, column: int) -> Tensor:
        scale = self._scale[..., column]
        return (values / scale).round().clamp(self._low[..., column], self._high[..., column]) * scale

    def ordered(self, order: Tensor) -> "_Integers":
        return _Integers(_gather(self._scale, order), _gather(self._low, order), _gather(self._high, order))

    def scaled(self, factors: Tensor) -> "_Integers":
        return _Integers(self._scale * factors, self._low, self._high)


@final
class _Table(Snapper):
    """scale · value of a table (tables, values), ascending; `number` says which table a weight has."""

    def __init__(self, tables: Tensor, number: Tensor | None, scale: Tensor | None) -> None:
        self._tables, self._number, self._scale = tables, number, scale
        self._borders = ((tables[:, 1:] + tables[:, :-1]) / 2).contiguous()

    def snap(self, values: Tensor, column: int) -> Tensor:
        scale = None if self._scale is None else self._scale[..., column]
        found = self._nearest(values if scale is None else values / scale, column)
        return found if scale is None else found * scale

    def _nearest(self, values: Tensor, column: int) -> Tensor:
        if self._number is None:
            return self._tables[0][torch.bucketize(values.contiguous(), self._borders[0])]
        number = self._number[..., column].reshape(-1)
        places = torch.searchsorted(self._borders[number], values.reshape(-1, 1).contiguous())
        return self._tables[number].gather(1, places).reshape(values.shape)

    def ordered(self, order: Tensor) -> "_Table":
        number = None if self._number is None else _gather(self._number, order)
        scale = None if self._scale is None else _gather(self._scale, order)
        return _Table(self._tables, number, scale)

    def scaled(self, factors: Tensor) -> "_Table":
        if self._scale is None:
            raise TypeError("books have no scales")
        return _Table(self._tables, self._number, self._scale * factors)


@final
class _Kept(Snapper):
    """Another grid where a mask (groups, outputs, columns) keeps weights, zero elsewhere."""

    def __init__(self, inner: Snapper, mask: Tensor) -> None:
        self._inner, self._mask = inner, mask

    def snap(self, values: Tensor, column: int) -> Tensor:
        return torch.where(self._mask[..., column], self._inner.snap(values, column), 0.0)

    def ordered(self, order: Tensor) -> "_Kept":
        return _Kept(self._inner.ordered(order), _gather(self._mask, order))

    def scaled(self, factors: Tensor) -> "_Kept":
        return _Kept(self._inner.scaled(factors), self._mask)
