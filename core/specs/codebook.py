"""The spec of `quantize.codebook`: weights share a few values that are chosen for them."""

from typing import ClassVar, Literal

from pydantic import Field

from core.description import LayerDescription
from core.specs.composition import EncodingKind
from core.specs.few_values import FewValues
from core.specs.weight_bits import Bits, packed


class CodebookQuantization(FewValues):
    """Weights of a layer share a few values, found by optimal k-means (Deep Compression, arXiv 1510.00149, section 3).

    Values need no grid, so that few bits lose less than with integers; a runtime multiplies floats, so that the file is
    small and no faster. Weights under a mask stay zero, and only the kept ones have a say and are stored.
    """

    title: ClassVar[str] = "Shared values"
    example: ClassVar[dict[str, object]] = {"method": "quantize.codebook", "values": 16}
    encodes: ClassVar[EncodingKind] = "codebook"

    method: Literal["quantize.codebook"] = "quantize.codebook"
    values: int = Field(
        16,
        ge=2,
        le=256,
        description="Values of a layer, of which a weight stores the number: 16 take 4 bits, 17 to 32 take 5. A layer "
        "with fewer different weights has fewer.",
    )
    groups: int = Field(
        1,
        ge=1,
        le=65_536,
        description="Books of values for each layer, each for as many channels in a row (of the weight's first axis); "
        "the largest number up to it that divides the channels is taken.",
    )
    weighting: Literal["none", "fisher"] = Field(
        "none",
        description="fisher: errors count by how much the network's answers depend on the weight (SqueezeLLM, arXiv "
        "2306.07629), measured on samples, without labels; of some ways to use that, each layer gets the one that is "
        "best on samples that are held back. It helps most at 2 and 3 bits.",
    )
    samples: int = Field(256, ge=1, le=10_000, description="Samples for `weighting: fisher`, in samples.")

    def calibration_samples(self) -> int:
        """Those of the rounding and of the weighting."""
        return max(super().calibration_samples(), self.samples if self.weighting == "fisher" else 0)

    def weight_bits(self, layer: LayerDescription) -> Bits:
        """Those of an index; books come on top."""
        bits = max((self.values - 1).bit_length(), 1)
        count = 1
        for size in layer.weight_shape:
            count *= size
        books = min(self.groups, layer.weight_shape[0] if layer.weight_shape else 1)
        least, most = packed(bits)
        return least, most + 32 * books * self.values / max(count, 1)
