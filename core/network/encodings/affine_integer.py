"""The affine integer encoding: value = scale · (integer − zero point) (Jacob et al. 2018, arXiv 1712.05877, eq. 1)."""

from dataclasses import dataclass
from typing import Any, final

import torch
from pydantic import JsonValue
from torch import Tensor, fx, nn

from core.network.encodings import operators
from core.network.encodings.emission import Emission
from core.network.encodings.encoding import Encoding
from core.network.encodings.straight_through import round_through
from core.network.encodings.trainable import TrainableWeight
from core.specs.composition import EncodingKind
from core.verdict import ItemisedBytes

# The smallest scale: below it fp32 division loses the grid. A channel of zeros gets it too.
SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny) * 2.0**24

_STORAGE = {torch.int8: "int8", torch.uint8: "uint8", torch.int32: "int32"}


@dataclass(frozen=True)
class Grid:
    """Which integers may be used and how they are stored: `low` … `high` around `zero_point`."""

    low: int
    high: int
    zero_point: int
    storage: torch.dtype

    @property
    def bits(self) -> int:
        """Bits that the used integers need."""
        return (self.high - self.low + 1).bit_length() if self.high - self.low < 255 else 8


def symmetric_grid(bits: int, *, unsigned: bool = False) -> Grid:
    """The symmetric grid of `bits` (2 … 8) in int8, or shifted by 128 in uint8."""
    top = 2 ** (bits - 1) - 1
    if unsigned:
        return Grid(128 - top, 128 + top, 128, torch.uint8)
    return Grid(-top, top, 0, torch.int8)


def scales_of(weight: Tensor, grid: Grid, axis: int | None) -> Tensor:
    """Scales by largest magnitude: shape (channels,) along `axis`, or () for the whole tensor."""
    magnitude = weight.detach().abs()
    magnitude = magnitude.amax() if axis is None else magnitude.movedim(axis, 0).flatten(1).amax(1)
    return (magnitude / (grid.high - grid.zero_point)).clamp_min(SMALLEST_SCALE)


@final
class AffineInteger(Encoding):
    """Integers with one scale for each channel along `axis`, or one for all (`axis` None, scale of shape ())."""

    def __init__(self, integers: Tensor, scale: Tensor, *, grid: Grid, axis: int | None) -> None:
        self.integers = integers
        self.scale = scale
        self.grid = grid
        self.axis = axis

    @classmethod
    def of(cls, weight: Tensor, *, grid: Grid, axis: int | None, scale: Tensor | None = None) -> "AffineInteger":
        """The nearest integers to `weight`; without `scale` the largest magnitude of each channel decides."""
        scale = scales_of(weight, grid, axis) if scale is None else scale.detach().float()
        spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(weight.dim())])
        # Doubles: an int32 bias does not fit the 24 bits of fp32.
        rounded = torch.round(weight.detach().double() / spread.double()) + grid.zero_point
        integers = rounded.clamp(grid.low, grid.high).to(grid.storage)
        return cls(integers, scale, grid=grid, axis=axis)

    @property
    def kind(self) -> EncodingKind:
        """`affine_integer`."""
        return "affine_integer"

    @property
    def name(self) -> str:
        """Such as `int8`, or `int7 in int8`."""
        storage = _STORAGE[self.grid.storage]
        bits = self.grid.bits
        return storage if bits >= self.integers.element_size() * 8 else f"int{bits} in {storage}"

    def decode(self) -> Tensor:
        """scale · (integer − zero point) in fp32."""
        return (self.integers.float() - self.grid.zero_point) * self._spread()

    def project(self, weight: Tensor) -> Tensor:
        """Round to this grid, scales kept."""
        return AffineInteger.of(weight, grid=self.grid, axis=self.axis, scale=self.scale).decode()

    def trainable(self, weight: Tensor) -> "IntegerWeight":
        """A latent weight and its scales."""
        return IntegerWeight(weight, self.scale, grid=self.grid, axis=self.axis)

    def bytes(self) -> ItemisedBytes:
        """Integers are weights (32-bit ones biases), scales and zero points are scales."""
        zeros = self._zeros()
        scales = self.scale.numel() * 4 + (0 if zeros is None else zeros.numel())
        size = self.integers.numel() * self.integers.element_size()
        if self.grid.storage is torch.int32:
            return ItemisedBytes(biases=size, scales=scales)
        return ItemisedBytes(weights=size, scales=scales)

    def transpose(self) -> "AffineInteger":
        """The transposed matrix; the channel axis moves along."""
        axis = None if self.axis is None else 1 - self.axis
        return AffineInteger(self.integers.t().contiguous(), self.scale, grid=self.grid, axis=axis)

    def stored(self) -> dict[str, Tensor]:
        """Integers, scale, and zero point where there is one."""
        tensors = {"": self.integers.contiguous(), "scale": self.scale.contiguous()}
        zeros = self._zeros()
        if zeros is not None:
            tensors["zero_point"] = zeros
        return tensors

    def config(self) -> dict[str, JsonValue]:
        """Grid and axis."""
        grid = self.grid
        return {
            "kind": "affine_integer",
            "low": grid.low,
            "high": grid.high,
            "zero_point": grid.zero_point,
            "storage": _STORAGE[grid.storage],
            "axis": self.axis,
        }

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "AffineInteger":
        """What `config` and `stored` say."""
        grid = Grid(config["low"], config["high"], config["zero_point"], getattr(torch, config["storage"]))
        return cls(tensors[""], tensors["scale"], grid=grid, axis=config["axis"])

    def emit_onnx(self, emission: Emission) -> fx.Node:
        """DequantizeLinear, which onnxruntime fuses with the layer."""
        zeros = self._zeros()
        return emission.call(
            operators.DEQUANTIZE,
            emission.buffer("", self.integers),
            emission.buffer("scale", self.scale),
            None if zeros is None else emission.buffer("zero", zeros),
            self.axis or 0,
        )

    def emit_pt2(self, emission: Emission) -> fx.Node:
        """Cast, subtract, multiply."""
        value = emission.call(torch.ops.aten.to.dtype, emission.buffer("", self.integers), torch.float32)
        if self.grid.zero_point:
            value = emission.call(torch.ops.aten.sub.Tensor, value, float(self.grid.zero_point))
        return emission.call(torch.ops.aten.mul.Tensor, value, emission.buffer("scale", self._spread()))

    def _spread(self) -> Tensor:
        if self.axis is None:
            return self.scale
        return self.scale.reshape([-1 if i == self.axis else 1 for i in range(self.integers.dim())])

    def _zeros(self) -> Tensor | None:
        # onnxruntime fuses QGemm only when the weight's zero point is written; of an int32 bias none may be.
        if self.grid.storage is torch.int32:
            return None
        return torch.full_like(self.scale, self.grid.zero_point, dtype=self.grid.storage)


@final
class IntegerWeight(TrainableWeight):
    """A latent weight that is rounded with a straight-through gradient, and learned scales (LSQ)."""

    def __init__(self, weight: Tensor, scale: Tensor, *, grid: Grid, axis: int | None) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().float().clone())
        self.scale = nn.Parameter(scale.detach().float().clone())
        self._grid = grid
        self._axis = axis

    def forward(self) -> Tensor:
        """scale · (integer − zero point), with the gradients of LSQ."""
        scale = self.scale.clamp_min(SMALLEST_SCALE)
        encoded = self.encode()
        shape = [-1 if i == self._axis else 1 for i in range(self.latent.dim())] if self._axis is not None else []
        ends = (float(self._grid.low - self._grid.zero_point), float(self._grid.high - self._grid.zero_point))
        return round_through(self.latent, scale.reshape(shape), encoded.decode(), ends=ends)

    def encode(self) -> AffineInteger:
        """The nearest integers at the scales as they are now."""
        scale = self.scale.detach().clamp_min(SMALLEST_SCALE).clone()
        return AffineInteger.of(self.latent, grid=self._grid, axis=self._axis, scale=scale)
