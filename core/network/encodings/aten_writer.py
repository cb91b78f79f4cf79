"""Writes encodings into an fx graph, as plain ATen operators."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, fx

from core.network.encodings.emission import Emission
from core.network.encodings.packing import BYTE, PLANES, Packed
from core.network.encodings.writer import Role, Writer

_ATEN = torch.ops.aten


@final
class AtenWriter(Writer[fx.Node]):
    """Operators of the ATen library; integers are int64."""

    def __init__(self, emission: Emission) -> None:
        super().__init__()
        self._emission = emission
        self._call = emission.call

    def constant(self, suffix: str, role: Role, value: Tensor) -> fx.Node:
        """A buffer beside the parameter."""
        del role
        return self._emission.buffer(f"{self._prefix}{suffix}".rstrip("_"), value)

    def look_up(self, codes: Packed, suffix: str, role: Role, table: fx.Node, shape: Sequence[int]) -> fx.Node:
        """Of one plane, rows of a table of values, selected by its bytes; of several, each code by its bits."""
        if len(codes.planes) == 1 and codes.bits < BYTE:
            return self._look_up_bytes(codes, self.constant(suffix, role, codes.planes[0]), table, shape)
        found: fx.Node | None = None
        base = 0
        for number, (width, plane) in enumerate(zip(PLANES[codes.bits], codes.planes, strict=True)):
            stored = self.constant(f"{suffix}_{number}".strip("_") if number else suffix, role, plane)
            part = self._call(_ATEN.to.dtype, self._split(stored, width), torch.int64)
            if base:
                part = self._call(_ATEN.mul.Tensor, part, 2**base)
            found = part if found is None else self._call(_ATEN.add.Tensor, found, part)
            base += width
        if found is None:
            raise ValueError("codes without planes")
        return self.reshape(self.pick(table, self._cut(found, codes)), shape)

    def ranks(self, bits: Packed, suffix: str, role: Role) -> fx.Node:
        """Running sums."""
        flags = self.look_up(bits, suffix, role, self.levels(0, 2, integer=True), (bits.count,))
        return self.multiply(self.running_sum(flags), flags)

    def places(self, bits: Packed, suffix: str, role: Role, count: int, *, factor: int) -> fx.Node:
        """Scattered by their ranks; what is not set goes before the first."""
        every = self._call(_ATEN.arange.start_step, 0, bits.count * factor, factor)
        found = self.scatter(every, self.ranks(bits, suffix, role), count + 1, integer=True)
        return self._call(_ATEN.slice.Tensor, found, 0, 1, count + 1)

    def settle(self, value: fx.Node) -> fx.Node:
        """Nothing is kept anyway."""
        return value

    def trim(self, value: fx.Node, size: int) -> fx.Node:
        """Nothing stands behind."""
        del size
        return value

    def _look_up_bytes(self, codes: Packed, stored: fx.Node, table: fx.Node, shape: Sequence[int]) -> fx.Node:
        every = self._call(_ATEN.to.dtype, self.levels(0, 256, integer=True), torch.uint8)
        digits = self._call(_ATEN.to.dtype, self._split(every, codes.bits), torch.int64)
        rows = self.reshape(self.pick(table, digits), (256, codes.together))
        values = self._rows(rows, self._call(_ATEN.to.dtype, stored, torch.int64))
        return self.reshape(self._cut(self.reshape(values, (-1,)), codes), shape)

    def _cut(self, values: fx.Node, codes: Packed) -> fx.Node:
        """Without what fills the last byte."""
        if codes.count == codes.planes[0].numel() * codes.together:
            return values
        return self._call(_ATEN.slice.Tensor, values, 0, 0, codes.count)

    def _split(self, stored: fx.Node, width: int) -> fx.Node:
        """The codes of a plane, one after the other."""
        if width == BYTE:
            return stored
        shifts = self._call(_ATEN.arange.start_step, 0, 8, width)
        shifts = self._call(_ATEN.to.dtype, shifts, torch.uint8)
        columns = self._call(_ATEN.unsqueeze.default, stored, 1)
        shifted = self._call(_ATEN.bitwise_right_shift.Tensor, columns, shifts)
        masked = self._call(_ATEN.__and__.Scalar, shifted, 2**width - 1)
        return self.reshape(masked, (-1,))

    def levels(self, low: int, count: int, *, integer: bool = False) -> fx.Node:
        """arange, cast."""
        made = self._call(_ATEN.arange.start, low, low + count)
        return made if integer else self.floats(made)

    def byte_levels(self, low: int, count: int) -> fx.Node:
        """arange, cast."""
        dtype = torch.int8 if low < 0 else torch.uint8
        return self._call(_ATEN.to.dtype, self.levels(low, count, integer=True), dtype)

    def floats(self, value: fx.Node) -> fx.Node:
        """to(float32)."""
        return self._call(_ATEN.to.dtype, value, torch.float32)

    def reshape(self, value: fx.Node, shape: Sequence[int]) -> fx.Node:
        """reshape."""
        return self._call(_ATEN.reshape.default, value, list(shape))

    def add(self, value: fx.Node, other: fx.Node) -> fx.Node:
        """add."""
        return self._call(_ATEN.add.Tensor, value, other)

    def subtract(self, value: fx.Node, other: fx.Node) -> fx.Node:
        """sub."""
        return self._call(_ATEN.sub.Tensor, value, other)

    def multiply(self, value: fx.Node, other: fx.Node) -> fx.Node:
        """mul."""
        return self._call(_ATEN.mul.Tensor, value, other)

    def product(self, left: fx.Node, right: fx.Node) -> fx.Node:
        """mm."""
        return self._call(_ATEN.mm.default, left, right)

    def pick(self, table: fx.Node, index: fx.Node) -> fx.Node:
        """index_select, which is many times faster than index."""
        return self._rows(table, self.reshape(index, (-1,)))

    def _rows(self, table: fx.Node, index: fx.Node) -> fx.Node:
        return self._call(_ATEN.index_select.default, table, 0, index)

    def zero_first(self, value: fx.Node, rows: int | None, *, integer: bool) -> fx.Node:
        """Pad at the left."""
        del rows, integer
        return self._call(_ATEN.constant_pad_nd.default, value, [1, 0], 0)

    def running_sum(self, value: fx.Node) -> fx.Node:
        """cumsum."""
        return self._call(_ATEN.cumsum.default, value, 0)

    def scatter(self, values: fx.Node, places: fx.Node, size: int, *, integer: bool) -> fx.Node:
        """zeros, scatter."""
        zeros = self._call(_ATEN.full.default, [size], 0 if integer else 0.0)
        return self._call(_ATEN.scatter.src, zeros, 0, places, values)
