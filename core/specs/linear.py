"""The spec of `quantize.linear`: integers of 2 to 8 bits for weights, of 4 to 8 or 16 for activations."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Asked, Capability, Family, Needs, Spec, WorksOn
from core.specs.calibration import Calibration
from core.specs.composition import EncodingKind
from core.specs.named_layers import list_alone, tell_unknown
from core.specs.onnx_quantize import INTEGER_OPERATORS
from core.specs.rounding import Rounding
from core.specs.weight_bits import Bits, packed

# Kinds of layers that onnxruntime runs on integers where their inputs are integers, too; and tables.
INTEGER_KINDS = ("conv1d", "conv2d", "linear", "embedding")
# Of these only the weights become integers.
WEIGHT_KINDS = ("conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
QUANTIZABLE_KINDS = (*INTEGER_KINDS, *WEIGHT_KINDS)
USUAL_GROUP = 64

Scale = Literal["float", "power_of_two"]


class WeightGrid(Asked):
    """Integer grid of weights. Up to 6 bits its scales are those of the least squared error, above by magnitude."""

    bits: int = Field(
        8, ge=2, le=8, description="Bits of a weight. Symmetric ones of 2 bits are −1, 0 and 1 times the scale."
    )
    symmetric: bool = Field(
        True,
        description="Around zero; else each scale has a zero point, and integer kernels are left to weights with one "
        "scale in all, others become floats when the file is loaded.",
    )
    scale: Scale = Field(
        "float",
        description="power_of_two: dynamic fixed point (Gysel et al. 2016, arXiv 1604.03168), with the exponent of the "
        "least squared error.",
    )
    per: Literal["auto", "tensor", "channel", "group"] = Field(
        "auto",
        description="What shares a scale; auto: an output channel, or where it is as good all weights. Weights with "
        "scales of groups become floats when the file is loaded.",
    )
    group_size: int | None = Field(
        None,
        ge=2,
        le=65_536,
        description="For `per: group`: weights in a row of a channel that share a scale; the largest divisor of a "
        f"channel up to it is taken. {USUAL_GROUP} where nothing is said.",
    )

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group_size is not None and self.per != "group":
            raise ValueError("group_size is for `per: group` only")
        return self


class ActivationGrid(Asked):
    """Integer grid of activations, one scale for each tensor; `activations: null` leaves them float."""

    bits: Literal[4, 5, 6, 7, 8, 16] = Field(
        8,
        description="Bits of an activation. Below 8, 8-bit integers that use fewer levels; 16 bits have no kernels: "
        "layers run on floats that are rounded before, which takes longer than floats alone.",
    )
    symmetric: bool | Literal["auto"] = Field(
        "auto",
        description="Around zero; where nothing is negative, from zero upwards. auto: where the "
        "job is for OpenVINO, which multiplies such integers faster, and values reach far to both sides.",
    )
    scale: Scale = Field("float", description="power_of_two: with the exponent of the least squared error.")
    mode: Literal["static", "dynamic"] = Field(
        "static",
        description="static: ranges from calibration samples. dynamic: the runtime finds the range of 8 bits in every "
        "run, for linear layers; of convolutions only the weights become integers then, for they would be slower.",
    )

    @model_validator(mode="after")
    def _check_dynamic(self) -> Self:
        if self.mode == "dynamic" and (self.bits != 8 or self.symmetric is True or self.scale != "float"):
            raise ValueError("dynamic activations have the runtime's own 8-bit grid: asymmetric, with a float scale")
        return self


class LayerGrid(Asked):
    """What is different for one layer."""

    weights: WeightGrid | None = Field(None, description="Grid of its weights; null: as of the others.")
    activations: bool = Field(
        True,
        description="Whether its input is rounded where those of others are; what a convolution on integers gives is "
        "rounded whoever takes it.",
    )


class LinearQuantization(Spec):
    """Post-training quantization to integers (Jacob et al. 2018, arXiv 1712.05877), to 8 bits unless asked otherwise.

    Where activations are rounded too, onnxruntime runs convolutions and linear layers on integers, with weights of any
    number of bits. With `activations: null` only the weights become integers: the file is small, speed and memory are
    those of floats, and no data is needed unless `rounding` or `smooth` does. Tables of embeddings are stored as
    integers with one scale a row; of 8 bits only the rows that are looked up become floats again. Weights under a mask
    stay masked. Layers that share a weight with another stay float, and so do recurrent ones.
    """

    title: ClassVar[str] = "Linear quantization"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {
        "method": "quantize.linear",
        "weights": {"bits": 8},
        "activations": {"bits": 8},
    }
    works_on: ClassVar[WorksOn] = "network"
    encodes: ClassVar[EncodingKind] = "affine_integer"
    # Integers that an earlier step has left are not rounded again.
    takes: ClassVar[frozenset[EncodingKind]] = frozenset({"dense", "half", "masked", "codebook", "log2"})

    method: Literal["quantize.linear"] = "quantize.linear"
    weights: WeightGrid = Field(WeightGrid(), description="Grid of the weights.")
    activations: ActivationGrid | None = Field(
        ActivationGrid(), description="Grid of the activations; null: they stay float."
    )
    calibration: Calibration = Field(Calibration(), description="How activation ranges are chosen.")
    rounding: Rounding = Field(Rounding(), description="How weights are rounded to their grid.")
    bias_correction: bool = Field(
        True,
        description="Take back by its bias what rounding moves the mean of a layer's output (arXiv 1906.04721); where "
        "there is calibration data, and for `nearest`: other ways to round do so themselves.",
    )
    equalize: bool = Field(
        False, description="Even out the channels of neighbouring layers first (arXiv 1906.04721); without data."
    )
    smooth: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Of the ranges of activations the share, as an exponent, that is moved into the weights of linear "
        "layers behind a layer norm (arXiv 2211.10438); 0.5 is usual.",
    )
    layers: dict[str, LayerGrid] = Field({}, description="By name of a layer, what is different for it.")
    saturation: Literal["auto", "full_range", "seven_bit", "unsigned"] = Field(
        "auto",
        description="What to do where the CPU's 8-bit kernel saturates: auto tests this file on this CPU and falls "
        "back to 7-bit weights or unsigned weights; the others force one choice. For symmetric weights of 8 bits.",
    )
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay float.")

    def calibration_samples(self) -> int:
        """As asked for; none where ranges are the runtime's or nothing is rounded but weights, each for itself."""
        ranges = self.activations is not None and self.activations.mode == "static"
        wanted = self.calibration.samples if ranges or self.smooth is not None else 0
        return max(wanted, self.rounding.calibration_samples())

    def weights_of(self, layer: str) -> WeightGrid:
        """The grid of a layer's weights."""
        asked = self.layers.get(layer)
        return self.weights if asked is None or asked.weights is None else asked.weights

    def rounds_input(self, layer: str) -> bool:
        """Whether the activations that a layer takes are to be rounded."""
        return self.activations is not None and (layer not in self.layers or self.layers[layer].activations)

    def weight_bits(self, layer: LayerDescription) -> Bits:
        """Those of the grid; scales and zero points come on top."""
        asked = self.weights_of(layer.name)
        return packed(asked.bits, (asked.group_size or USUAL_GROUP) if asked.per == "group" else None)

    def requires(self, description: ModelDescription) -> Capability:
        """Convolutions, linear layers and tables of embeddings can be quantized; layers that are named must exist."""
        if done := sorted(INTEGER_OPERATORS & set(description.operators)):
            return Capability(ok=False, why=f"The model is quantized already: it has {', '.join(done)}.")
        if description.mode == "onnx_only":
            return Capability(
                ok=False,
                why=f"The file could not be read as a network: {description.why} `quantize.onnx` takes it as it is.",
            )
        if unknown := tell_unknown(description, keep_float=self.keep_float, layers=self.layers):
            return Capability(ok=False, why=unknown)
        names = list_alone(description, is_quantizable)
        if useless := sorted(set(self.layers) - set(names)):
            why = f"layers names what cannot be quantized, or shares its weight: {', '.join(useless)}."
            return Capability(ok=False, why=why)
        chosen = tuple(name for name in names if name not in self.keep_float)
        if not chosen:
            return Capability(ok=False, why="No convolution, linear layer or table of embeddings is left to quantize.")
        return Capability(ok=True, layers=chosen)


def is_quantizable(layer: LayerDescription) -> bool:
    """Whether a layer is of a kind whose weights can be integers or few values."""
    return layer.kind in QUANTIZABLE_KINDS
