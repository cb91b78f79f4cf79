"""The affine integer encoding: value = scale · (integer − zero point) (Jacob et al. 2018, arXiv 1712.05877, eq. 1)."""

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import JsonValue
from torch import Tensor, fx, nn

from core.network.encodings.blocks import SMALLEST_SCALE, Blocks
from core.network.encodings.elementwise import Elementwise
from core.network.encodings.emission import Emission
from core.network.encodings.grids import Grid, scales_of
from core.network.encodings.integer_kernels import emit_integers, zero_points
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.encodings.packing import BYTE, Packed
from core.network.encodings.straight_through import power_of_two_through, round_through
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import Role, V, Writer
from core.specs.composition import EncodingKind

_STORAGE = {torch.int8: "int8", torch.uint8: "uint8", torch.int32: "int32"}
_TERNARY = 2


@final
class AffineInteger(Elementwise):
    """Integers with one scale for each channel along `axis`, or one for all (`axis` None, scale of shape ()).

    `zero_points` (uint8, in the shape of the scales) are those of an asymmetric grid, in place of the grid's own.
    """

    def __init__(
        self, integers: Tensor, scale: Tensor, *, grid: Grid, axis: int | None, zero_points: Tensor | None = None
    ) -> None:
        self.integers = integers
        self.scale = scale
        self.grid = grid
        self.axis = axis
        self.zero_points = zero_points
        self._blocks = Blocks(tuple(integers.shape), axis, grid.group)

    @classmethod
    def of(cls, weight: Tensor, *, grid: Grid, axis: int | None, scale: Tensor | None = None) -> "AffineInteger":
        """The nearest integers to `weight`; without `scale` the largest magnitude of each block decides."""
        scale = scales_of(weight, grid, axis) if scale is None else scale.detach().float()
        return cls(torch.empty(weight.shape), scale, grid=grid, axis=axis).at(weight)

    @classmethod
    def asymmetric(cls, weight: Tensor, *, grid: Grid, axis: int | None) -> "AffineInteger":
        """The grid spans each block from its least to its largest value and holds zero."""
        blocks = Blocks(tuple(weight.shape), axis, grid.group)
        rows = blocks.flat(weight.detach())
        low, high = rows.amin(1).clamp_max(0.0), rows.amax(1).clamp_min(0.0)
        scale = ((high - low) / (grid.high - grid.low)).clamp_min(SMALLEST_SCALE)
        zeros = (grid.low - low / scale).round().clamp(grid.low, grid.high).to(torch.uint8)
        empty = torch.empty(weight.shape)
        return cls(empty, blocks.shaped(scale), grid=grid, axis=axis, zero_points=blocks.shaped(zeros)).at(weight)

    def at(self, weight: Tensor) -> "AffineInteger":
        """The nearest integers on the same grid with the same scales."""
        return self.rescaled(weight, self.scale)

    def rescaled(self, weight: Tensor, scale: Tensor) -> "AffineInteger":
        """The nearest integers on the same grid with other scales."""
        blocks, grid = Blocks(tuple(weight.shape), self.axis, self.grid.group), self.grid
        # Doubles: an int32 bias does not fit the 24 bits of fp32.
        ratio = weight.detach().double().reshape(blocks.view) / blocks.spread(scale).double()
        zero = grid.zero_point if self.zero_points is None else blocks.spread(self.zero_points).to(weight.device)
        integers = (torch.round(ratio) + zero).clamp(grid.low, grid.high).to(grid.storage).reshape(weight.shape)
        return AffineInteger(integers, scale, grid=grid, axis=self.axis, zero_points=self.zero_points)

    @property
    def kind(self) -> EncodingKind:
        """`affine_integer`."""
        return "affine_integer"

    @property
    def name(self) -> str:
        """Such as `int8`, `int7 in int8`, `int4` where packed, `uint4` where asymmetric, `ternary`."""
        storage, bits = _STORAGE[self.grid.storage], self.grid.bits
        if not self.grid.packed:
            return storage if bits >= self.integers.element_size() * 8 else f"int{bits} in {storage}"
        name = f"uint{bits}" if self.grid.storage is torch.uint8 else f"int{bits}"
        if self.grid.high - self.grid.low == _TERNARY and self.zero_points is None:
            name = "ternary"
        return name if self.grid.group is None else f"{name} in groups of {self.grid.group}"

    @property
    def bits(self) -> int | None:
        """Those of the grid where it is packed into less than a byte."""
        return self.grid.bits if self.grid.packed and self.grid.bits < BYTE else None

    @property
    def codes(self) -> Tensor:
        """The integers, counted from the lowest where they are packed."""
        if self.bits is None:
            return self.integers
        return (self.integers.to(torch.int16) - self.grid.low).to(torch.uint8)

    @property
    def role(self) -> Role:
        """32-bit integers are biases."""
        return "biases" if self.grid.storage is torch.int32 else "weights"

    @property
    def maskable(self) -> bool:
        """With a zero point for each block, no one code is zero."""
        return self.zero_points is None

    @property
    def has_plain_rows(self) -> bool:
        """Whether a row of a matrix is its integers times one scale."""
        return self.axis == 0 and not self.grid.packed and self.grid.group is None and self.zero_points is None

    @property
    def has_kernel(self) -> bool:
        """Whether onnxruntime can multiply the integers as they are: int8 and uint8 with scales of whole channels."""
        # Levels are written as signed bytes where the lowest is negative.
        signed = (self.grid.low < 0) == (self.grid.storage is torch.int8) or self.bits is None
        return self.grid.group is None and self.zero_points is None and signed

    def decode(self) -> Tensor:
        """scale · (integer − zero point) in fp32."""
        values = self.integers.float().reshape(self._blocks.view)
        if self.zero_points is None:
            values = values - self.grid.zero_point
        else:
            values = values - self._blocks.spread(self.zero_points).to(values)
        return (values * self._blocks.spread(self.scale)).reshape(self.integers.shape)

    def trainable(self, weight: Tensor) -> "IntegerWeight":
        """A latent weight and its scales."""
        return IntegerWeight(weight, self)

    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """Scale, and zero point where there is one."""
        zeros = self._zeros() if self.zero_points is None else self.zero_points
        found: dict[str, tuple[Role, Tensor]] = {"scale": ("scales", self.scale)}
        return found if zeros is None else found | {"zero_point": ("scales", zeros)}

    def config(self) -> dict[str, JsonValue]:
        """Grid, axis, shape."""
        grid = self.grid
        return {
            "kind": "affine_integer",
            "shape": list(self.shape),
            "axis": self.axis,
            "low": grid.low,
            "high": grid.high,
            "zero_point": grid.zero_point,
            "storage": _STORAGE[grid.storage],
            "bits": self.bits,
            "packed": grid.packed,
            "group": grid.group,
            "asymmetric": self.zero_points is not None,
            **({"power_of_two": True} if grid.power_of_two else {}),
        }

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> "AffineInteger":
        """Integers from codes."""
        storage = getattr(torch, config["storage"])
        low, high, zero = config["low"], config["high"], config["zero_point"]
        grid = Grid(low, high, zero, storage, config["packed"], config["group"], config.get("power_of_two", False))
        integers = codes if config["bits"] is None else (codes.to(torch.int16) + grid.low).to(storage)
        zeros = sides["zero_point"] if config["asymmetric"] else None
        return cls(integers, sides["scale"], grid=grid, axis=config["axis"], zero_points=zeros)

    def table(self, writer: Writer[V]) -> V:
        """The levels, scaled at once where there is one scale for all."""
        low, count = self._lowest, 2**self.grid.bits
        if self._scales_table:
            return writer.multiply(writer.levels(low, count), self._write_scale(writer))
        return writer.byte_levels(low, count)

    def values(self, writer: Writer[V], stored: V) -> V:
        """The integers from the zero point on, as floats."""
        value = writer.floats(stored)
        return writer.subtract(value, writer.levels(self.grid.zero_point, 1)) if self.grid.zero_point else value

    def write_codes(self, writer: Writer[V], codes: Tensor) -> V:
        """Bytes are looked up and cast, which takes less memory than to look up floats."""
        values = super().write_codes(writer, codes)
        if self._scales_table or self.bits is None:
            return values
        return writer.floats(writer.settle(values))

    def finish(self, writer: Writer[V], values: V) -> V:
        """Subtract zero points, multiply by scales."""
        if self._scales_table:
            return values
        if self.grid.group is None:
            return self._scaled(writer, values)
        return writer.reshape(self._scaled(writer, writer.reshape(values, self._blocks.view)), self.shape)

    def write(self, writer: Writer[V]) -> V:
        """Groups lie in rows from the start, which saves a copy of the weight."""
        if self.grid.group is None:
            return super().write(writer)
        values = self.write_codes(writer, self.codes.reshape(self._blocks.view))
        return writer.reshape(self._scaled(writer, values), self.shape)

    def _scaled(self, writer: Writer[V], values: V) -> V:
        if self.zero_points is not None:
            zeros = writer.constant("zero_point", "scales", self._blocks.spread(self.zero_points))
            values = writer.subtract(values, writer.floats(zeros))
        return writer.multiply(values, self._write_scale(writer))

    @property
    def _lowest(self) -> int:
        """What the code 0 stands for."""
        return self.grid.low - self.grid.zero_point

    @property
    def _scales_table(self) -> bool:
        return self.bits is not None and self.axis is None and self.zero_points is None

    def _write_scale(self, writer: Writer[V]) -> V:
        return writer.constant("scale", "scales", self._blocks.spread(self.scale))

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """DequantizeLinear where onnxruntime fuses it with the layer; what is folded at load where not.

        Of packed integers what is folded are the integers alone, which leaves the layer its integer kernel.
        """
        if not (self.has_kernel and emission.fused):
            return super().emit_onnx(emission)
        return self.emit_kernel(emission, self.emit_integers(emission))

    def emit_integers(self, emission: Emission) -> fx.Node:
        """The integers as onnxruntime's kernels take them."""
        if self.bits is not None:
            return emission.stored(self, self._write_integers, self.grid.storage)
        return emission.buffer("", self.integers.t() if emission.transposed else self.integers)

    def emit_kernel(self, emission: Emission, integers: fx.Node) -> fx.Node:
        """What stands before a layer that is run on `integers`, which are those of this weight or a part of them."""
        zeros = zero_points(self.scale, self.grid.zero_point, self.grid.storage)
        return emit_integers(emission, integers, self.scale, zero_point=zeros, axis=self.axis)

    def _write_integers(self, writer: OnnxWriter) -> str:
        levels = writer.byte_levels(self.grid.low, 2**self.grid.bits)
        return writer.look_up(Packed.of(self.codes, self.grid.bits), "", self.role, levels, self.shape)

    def write_distances(self, writer: OnnxWriter, codes: Tensor) -> str:
        """Of some codes the integers, counted from the zero point: int32."""
        if self.bits is not None:
            levels = writer.levels(self._lowest, 2**self.grid.bits, integer=True)
            return writer.look_up(Packed.of(codes, self.bits), "", self.role, levels, codes.shape)
        integers = writer.integers(writer.constant("", self.role, codes))
        return writer.subtract(integers, writer.levels(self.grid.zero_point, 1, integer=True))

    def write_storage(self, writer: OnnxWriter, distances: str) -> str:
        """The opposite: integers as they are stored."""
        integers = writer.add(distances, writer.levels(self.grid.zero_point, 1, integer=True))
        return writer.small(integers, self.grid.storage)

    def _zeros(self) -> Tensor | None:
        if self.grid.packed:
            return None
        return zero_points(self.scale, self.grid.zero_point, self.grid.storage)


@final
class IntegerWeight(TrainableWeight):
    """A latent weight that is rounded with a straight-through gradient, and learned scales (LSQ); zero points stay."""

    def __init__(self, weight: Tensor, start: AffineInteger) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().float().clone())
        self.scale = nn.Parameter(start.scale.detach().float().clone())
        self._start = start
        self._blocks = Blocks(start.shape, start.axis, start.grid.group)

    def forward(self) -> Tensor:
        """scale · (integer − zero point), with the gradients of LSQ."""
        grid, blocks, view = self._start.grid, self._blocks, self._blocks.view
        zeros = self._start.zero_points
        zero = float(grid.zero_point) if zeros is None else blocks.spread(zeros).to(self.latent)
        ends = (grid.low - zero, grid.high - zero)
        spread = blocks.spread(self.step())
        made = round_through(self.latent.reshape(view), spread, self._round, ends=ends, returns=True)
        return made.reshape(self.latent.shape)

    def step(self) -> Tensor:
        """The scales as they are used: above the smallest, and powers of two where they must be."""
        scale = self.scale.clamp_min(SMALLEST_SCALE)
        return power_of_two_through(scale) if self._start.grid.power_of_two else scale

    def encode(self) -> AffineInteger:
        """The nearest integers at the scales as they are now."""
        return self._start.rescaled(self.latent, self.step().detach().clone())

    def _round(self, latent: Tensor, scale: Tensor) -> Tensor:
        start = self._start
        found = start.rescaled(latent.reshape(start.shape), scale.reshape(start.scale.shape))
        return found.decode().reshape(latent.shape)
