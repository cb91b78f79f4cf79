"""Log2 and binary encodings: value = scale · level, with levels that are fixed beforehand."""

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from core.network.encodings.blocks import SMALLEST_SCALE, Blocks
from core.network.encodings.elementwise import Elementwise, fill_table
from core.network.encodings.packing import bits_for
from core.network.encodings.straight_through import round_through
from core.network.encodings.trainable import TrainableWeight
from core.network.encodings.writer import Role, V, Writer
from core.specs.composition import EncodingKind

Leveled = Literal["log2", "binary"]
LEAST_BITS, MOST_BITS = 2, 8
# Powers that lie further below the largest are left out: beyond them fp32 itself has none for small scales.
MOST_OCTAVES = 62


def log2_levels(bits: int, per_octave: int = 1) -> Tensor:
    """0 and ±2^(−j / per_octave) for j = 0 … 2^(bits−1) − 2, ascending, for 2 … 8 bits.

    With one level an octave these are the powers of two of INQ (arXiv 1702.03044, eq. 1); more of them are a logarithm
    to a smaller base (Miyashita et al. 2016, arXiv 1603.01025). None is below 2^−62, so that 8 bits of powers of two
    have no more levels than 7 bits.
    """
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"log2 takes {LEAST_BITS} to {MOST_BITS} bits, not {bits}")
    count = min(2 ** (bits - 1) - 1, MOST_OCTAVES * per_octave + 1)
    powers = torch.exp2(-torch.arange(count, dtype=torch.float64) / per_octave).float()
    return torch.cat([-powers, torch.zeros(1), powers.flip(0)])


@final
class Levels(Elementwise):
    """For each weight the number of its level; one scale for each channel along `axis`, or one for all."""

    def __init__(self, codes: Tensor, scale: Tensor, *, kind: Leveled, levels: Tensor, axis: int | None) -> None:
        self._codes = codes
        self.scale = scale
        self.levels = levels
        self.axis = axis
        self._kind: Leveled = kind
        self._blocks = Blocks(tuple(codes.shape), axis)

    @classmethod
    def log2(
        cls, weight: Tensor, *, bits: int, axis: int | None, per_octave: int = 1, scale: Tensor | None = None
    ) -> "Levels":
        """Levels of `log2_levels`, times `scale`: without one 2^⌊log2(4·max/3)⌋ of each block (INQ, eq. 2)."""
        if scale is None:
            largest = Blocks(tuple(weight.shape), axis).flat(weight.detach().abs()).amax(1).clamp_min(SMALLEST_SCALE)
            scale = torch.exp2(torch.floor(torch.log2(largest * 4 / 3)))
        return cls._start("log2", log2_levels(bits, per_octave), weight, axis, scale)

    @classmethod
    def binary(cls, weight: Tensor, *, axis: int | None, scale: Tensor | None = None) -> "Levels":
        """±scale, without `scale` the mean magnitude of each block (XNOR-Net, arXiv 1603.05279, eq. 6)."""
        if scale is None:
            scale = Blocks(tuple(weight.shape), axis).flat(weight.detach().abs()).mean(1).clamp_min(SMALLEST_SCALE)
        return cls._start("binary", torch.tensor([-1.0, 1.0]), weight, axis, scale)

    @classmethod
    def _start(cls, kind: Leveled, levels: Tensor, weight: Tensor, axis: int | None, scale: Tensor) -> "Levels":
        shaped = Blocks(tuple(weight.shape), axis).shaped(scale)
        return cls(torch.empty(weight.shape), shaped, kind=kind, levels=levels, axis=axis).at(weight)

    def at(self, weight: Tensor) -> "Levels":
        """The nearest levels at the same scales."""
        return self.rescaled(weight, self.scale)

    def rescaled(self, weight: Tensor, scale: Tensor) -> "Levels":
        """The nearest levels at other scales."""
        ratio = (weight.detach() / self._blocks.spread(scale)).contiguous()
        borders = ((self.levels[1:] + self.levels[:-1]) / 2).to(weight.device)
        codes = torch.bucketize(ratio, borders).to(torch.uint8)
        return Levels(codes, scale, kind=self._kind, levels=self.levels, axis=self.axis)

    @property
    def kind(self) -> EncodingKind:
        """`log2` or `binary`."""
        return self._kind

    @property
    def name(self) -> str:
        """Such as `log2 in 4 bits`, or `binary`."""
        return f"log2 in {self.bits} bits" if self._kind == "log2" else "binary"

    @property
    def bits(self) -> int:
        """Bits that tell the levels apart."""
        return bits_for(self.levels.numel())

    @property
    def codes(self) -> Tensor:
        """Numbers of levels: uint8."""
        return self._codes

    def decode(self) -> Tensor:
        """scale · level."""
        return self.levels.to(self._codes.device)[self._codes.long()] * self._blocks.spread(self.scale)

    def trainable(self, weight: Tensor) -> "LevelWeight":
        """A latent weight and its scales."""
        return LevelWeight(weight, self)

    def sides(self) -> dict[str, tuple[Role, Tensor]]:
        """Scales, and the table of levels."""
        return {"scale": ("scales", self.scale), "levels": ("codebooks", fill_table(self.levels, self.bits))}

    def config(self) -> dict[str, JsonValue]:
        """Kind, axis, shape, bits, levels."""
        shape: list[JsonValue] = list(self.shape)
        return {"kind": self._kind, "shape": shape, "axis": self.axis, "bits": self.bits, "levels": len(self.levels)}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], codes: Tensor, sides: Mapping[str, Tensor]) -> "Levels":
        """The same levels and scales."""
        levels = sides["levels"][: config["levels"]]
        return cls(codes, sides["scale"], kind=config["kind"], levels=levels, axis=config["axis"])

    def table(self, writer: Writer[V]) -> V:
        """The levels, scaled at once where there is one scale for all."""
        levels = writer.constant("levels", "codebooks", fill_table(self.levels, self.bits))
        return writer.multiply(levels, self._write_scale(writer)) if self.axis is None else levels

    def finish(self, writer: Writer[V], values: V) -> V:
        """Multiply by the scale of each channel."""
        return values if self.axis is None else writer.multiply(values, self._write_scale(writer))

    def _write_scale(self, writer: Writer[V]) -> V:
        return writer.constant("scale", "scales", self._blocks.spread(self.scale))


@final
class LevelWeight(TrainableWeight):
    """A latent weight that goes to the nearest level with a straight-through gradient, and learned scales (LSQ)."""

    def __init__(self, weight: Tensor, start: Levels) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().float().clone())
        self.scale = nn.Parameter(start.scale.detach().float().clone())
        self._start = start
        self._blocks = Blocks(start.shape, start.axis)

    def forward(self) -> Tensor:
        """scale · level, with the gradients of LSQ."""
        spread = self._blocks.spread(self.scale.clamp_min(SMALLEST_SCALE))
        ends = (float(self._start.levels[0]), float(self._start.levels[-1]))
        return round_through(self.latent, spread, self._round, ends=ends, returns=True)

    def encode(self) -> Levels:
        """The nearest levels at the scales as they are now."""
        return self._start.rescaled(self.latent, self.scale.detach().clamp_min(SMALLEST_SCALE).clone())

    def _round(self, latent: Tensor, scale: Tensor) -> Tensor:
        return self._start.rescaled(latent, scale.reshape(self._start.scale.shape)).decode()
