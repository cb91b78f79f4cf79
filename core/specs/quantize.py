"""The specs of the family `quantize`."""

from typing import ClassVar, Literal

from pydantic import Field

from core.description import ModelDescription
from core.specs.base import Asked, Capability, Family, Needs, Spec

QUANTIZABLE_KINDS = ("conv1d", "conv2d", "linear")


class WeightGrid(Asked):
    """Integer grid of the weights: symmetric; one scale for each output channel, or one for all where as good."""

    bits: Literal[8] = Field(8, description="Bits of a weight.")


class ActivationGrid(Asked):
    """Integer grid of the activations: asymmetric, one scale for each tensor."""

    bits: Literal[8] = Field(8, description="Bits of an activation.")


class Calibration(Asked):
    """How the range of each activation is chosen from calibration samples."""

    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "mse", description="minmax keeps every value; the others clip outliers by their own criterion."
    )
    samples: int = Field(512, ge=1, le=100_000, description="Calibration samples that are run, in samples.")
    percentile: float = Field(
        99.99, gt=50.0, le=100.0, description="Share of values that is kept, in percent; for `percentile` only."
    )


class LinearQuantization(Spec):
    """Post-training static quantization to 8-bit integers (Jacob et al. 2018, arXiv 1712.05877)."""

    title: ClassVar[str] = "Linear quantization"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {
        "method": "quantize.linear",
        "weights": {"bits": 8},
        "activations": {"bits": 8},
    }

    method: Literal["quantize.linear"] = "quantize.linear"
    weights: WeightGrid = Field(WeightGrid(), description="Grid of the weights.")
    activations: ActivationGrid = Field(ActivationGrid(), description="Grid of the activations.")
    calibration: Calibration = Field(Calibration(), description="How activation ranges are chosen.")
    saturation: Literal["auto", "full_range", "seven_bit", "unsigned"] = Field(
        "auto",
        description="What to do where the CPU's 8-bit kernel saturates: auto tests this file on this CPU and falls "
        "back to 7-bit weights or unsigned weights; the others force one choice.",
    )
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay float.")

    def requires(self, description: ModelDescription) -> Capability:
        """Convolutions and linear layers can be quantized; names in `keep_float` must exist."""
        if description.mode == "onnx_only":
            return Capability(ok=False, why=f"The file could not be read as a network: {description.why}")
        names = tuple(layer.name for layer in description.layers if layer.kind in QUANTIZABLE_KINDS)
        unknown = sorted(set(self.keep_float) - {layer.name for layer in description.layers})
        if unknown:
            return Capability(ok=False, why=f"keep_float names no layer of this model: {', '.join(unknown)}.")
        chosen = tuple(name for name in names if name not in self.keep_float)
        if not chosen:
            return Capability(ok=False, why="No convolution or linear layer is left to quantize.")
        return Capability(ok=True, layers=chosen)


QUANTIZE: tuple[type[Spec], ...] = (LinearQuantization,)
