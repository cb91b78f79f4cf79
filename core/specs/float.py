"""The spec of `quantize.float`: weights in floating-point numbers of 16 bits."""

from typing import ClassVar, Literal

from pydantic import Field

from core.description import LayerDescription, ModelDescription
from core.specs.base import Capability, Family, Needs, Spec, WorksOn
from core.specs.composition import EncodingKind
from core.specs.linear import is_quantizable
from core.specs.named_layers import list_alone, tell_unknown
from core.specs.weight_bits import Bits

_BITS = 16.0


class FloatQuantization(Spec):
    """Weights of convolutions, linear layers and tables in 16 bits: the file is half as large, the answers the same.

    Rounding is to the nearest. Activations and arithmetic stay float32, and so do biases unless they are asked for: the
    runtime makes floats of 32 bits of what is stored once, while it loads the file, so that speed and memory are as
    before. Needs no data. A layer whose weights do not fit (beyond 65,504 in float16) stays as it is, with a finding.
    """

    title: ClassVar[str] = "Weights in 16-bit floats"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=False, labels=False, training=False)
    example: ClassVar[dict[str, object]] = {"method": "quantize.float", "type": "float16"}
    works_on: ClassVar[WorksOn] = "network"
    encodes: ClassVar[EncodingKind] = "half"
    # Whatever else there is takes fewer bits already.
    takes: ClassVar[frozenset[EncodingKind]] = frozenset({"dense", "masked"})

    method: Literal["quantize.float"] = "quantize.float"
    type: Literal["float16", "bfloat16"] = Field(
        "float16",
        description="float16: 11 significant bits, up to 65,504. bfloat16: 8 bits, and the range of float32.",
    )
    compute: Literal["float32"] = Field(
        "float32", description="What the runtime computes in; CPUs without instructions for 16 bits get slower by them."
    )
    biases: bool = Field(
        False,
        description="Biases of these layers too, where they have 32 numbers and more. Pruned to a few percent, a "
        "network has a tenth of its bytes in them.",
    )
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay as they are.")

    def calibration_samples(self) -> int:
        """None: numbers are rounded each for itself."""
        return 0

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """Sixteen."""
        return _BITS, _BITS

    def requires(self, description: ModelDescription) -> Capability:
        """There must be a convolution, linear layer or table left, and names in `keep_float` must exist."""
        if description.mode == "onnx_only":
            return Capability(ok=False, why=f"The file could not be read as a network: {description.why}")
        if why := tell_unknown(description, keep_float=self.keep_float):
            return Capability(ok=False, why=why)
        chosen = tuple(name for name in list_alone(description, is_quantizable) if name not in self.keep_float)
        why = None if chosen else "No convolution, linear layer or table of embeddings is left to store in 16 bits."
        return Capability(ok=bool(chosen), layers=chosen, why=why)
