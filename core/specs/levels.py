"""The specs of `quantize.log2`, `quantize.ternary` and `quantize.binary`: values fixed but for a scale."""

from typing import ClassVar, Literal

from pydantic import Field

from core.description import LayerDescription
from core.specs.composition import EncodingKind
from core.specs.few_values import GRIDS, FewValues
from core.specs.weight_bits import Bits, packed

_PER = "What shares a scale: an output channel (of a table a row), or all weights of a layer."


class LogQuantization(FewValues):
    """Weights of zero and plus or minus powers of two, times a scale (INQ, arXiv 1702.03044; arXiv 1603.01025).

    Weights alone: a stock runtime multiplies floats, so that the file is small and no faster. More than 4 or 5 bits of
    powers of two add only powers too small to matter, since neighbours differ by a factor of two however many there
    are; with more levels an octave they come closer. Scales are those of the least squared error. 8 bits of powers of
    two would leave fp32 and are stored as 7.
    """

    title: ClassVar[str] = "Powers of two"
    example: ClassVar[dict[str, object]] = {"method": "quantize.log2", "bits": 4}
    encodes: ClassVar[EncodingKind] = "log2"

    method: Literal["quantize.log2"] = "quantize.log2"
    bits: int = Field(4, ge=2, le=8, description="Bits of a weight: one code is zero, the others are signed levels.")
    per_octave: Literal[1, 2, 4, 8] = Field(
        1, description="Levels for each factor of two; 1 has powers of two alone, the others roots of them too."
    )
    scale: Literal["float", "power_of_two"] = Field(
        "float", description="power_of_two: every value is a power of two, as shifts need it; float comes closer."
    )
    per: Literal["channel", "tensor"] = Field("channel", description=_PER)

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """As asked; scales and the table of levels come on top."""
        return packed(min(self.bits, 7) if self.per_octave == 1 else self.bits)


class TernaryQuantization(FewValues):
    """Weights of −1, 0 and 1, times a scale, in 2 bits (TWN, arXiv 1605.04711).

    Threshold and scale are the exact optimum of the squared error, not the paper's rule of 0.7 times the mean. Without
    training most networks lose much: put `finetune` behind it, or GPTQ into `rounding`.
    """

    title: ClassVar[str] = "Ternary weights"
    example: ClassVar[dict[str, object]] = {"method": "quantize.ternary"}
    encodes: ClassVar[EncodingKind] = "affine_integer"

    method: Literal["quantize.ternary"] = "quantize.ternary"
    per: Literal["channel", "tensor"] = Field("channel", description=_PER)

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """Two, and the scales."""
        return packed(2)


class BinaryQuantization(FewValues):
    """Weights of plus or minus a scale, in 1 bit (XNOR-Net, arXiv 1603.05279, eq. 6).

    The scale is the mean magnitude, the exact optimum. Without training nearly all networks are lost: put `finetune`
    behind it. Activations stay float, so that the file is small and no faster.
    """

    title: ClassVar[str] = "Binary weights"
    example: ClassVar[dict[str, object]] = {"method": "quantize.binary"}
    encodes: ClassVar[EncodingKind] = "binary"
    takes: ClassVar[frozenset[EncodingKind]] = GRIDS | {"binary"}

    method: Literal["quantize.binary"] = "quantize.binary"
    per: Literal["channel", "tensor"] = Field("channel", description=_PER)

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """One, and the scales."""
        return packed(1)
