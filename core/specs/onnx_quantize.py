"""The spec of `quantize.onnx`: onnxruntime's own quantizer."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from core.description import LayerDescription, ModelDescription
from core.specs.base import Asked, Capability, Family, Needs, Spec, WorksOn
from core.specs.named_layers import tell_unknown
from core.specs.weight_bits import BYTE, Bits, packed

# What onnxruntime's quantizer makes integers of, by mode, in the main graph of a file.
ONNX_KINDS = {
    "static": frozenset({"conv1d", "conv2d", "conv3d", "linear"}),
    "dynamic": frozenset({"conv1d", "conv2d", "conv3d", "linear", "lstm"}),
}
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
LARGEST_FILE = (1 << 31) - 1
TOO_LARGE = "onnxruntime's quantizer takes files of up to 2 GiB with all weights."
INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger", "DynamicQuantizeLSTM", "QGemm", "QAttention"}
)


class OnnxCalibration(Asked):
    """How onnxruntime's own calibrators choose the range of each activation; for `static` only."""

    method: Literal["minmax", "percentile", "entropy"] = Field(
        "minmax", description="minmax keeps every value; the others clip outliers, and take longer."
    )
    samples: int = Field(128, ge=1, le=100_000, description="Calibration samples that are run, in samples.")
    percentile: float = Field(
        99.999, gt=50.0, le=100.0, description="Share of values that is kept, in percent; for `percentile` only."
    )


class OnnxQuantization(Spec):
    """onnxruntime's own quantizer on the ONNX file as it is: for models in mode `onnx_only`, and as a stock baseline.

    The file is shape-inferred and simplified by onnxruntime first. Static mode writes QuantizeLinear and
    DequantizeLinear around the operators and calibrates batch after batch, so that memory is bounded by one batch.
    Dynamic mode stores the weights as integers and finds the ranges of activations in every run, so it needs no data.
    Nodes inside of branches and loops stay float in static mode; dynamic mode takes those that hold their own weights.
    What stays float there is a finding. Files above 2 GiB are refused. The result may hold operators of onnxruntime's
    own domain.
    """

    title: ClassVar[str] = "Quantization by onnxruntime"
    family: ClassVar[Family] = "quantize"
    needs: ClassVar[Needs] = Needs(data=True, labels=False, training=False, synthetic=True)
    example: ClassVar[dict[str, object]] = {"method": "quantize.onnx", "mode": "static"}
    works_on: ClassVar[WorksOn] = "file"

    method: Literal["quantize.onnx"] = "quantize.onnx"
    mode: Literal["static", "dynamic"] = Field(
        "static",
        description="static: ranges of activations from calibration samples, fastest. dynamic: no data, for products "
        "and LSTMs; convolutions become slower than float.",
    )
    types: Literal["u8s8", "u8u8", "s8s8"] = Field(
        "u8s8", description="Signed or unsigned bytes: first the activations, then the weights. dynamic: not s8s8."
    )
    per_channel: bool = Field(True, description="One scale for each output channel of a weight, else one for all.")
    reduce_range: Literal["auto", "on", "off"] = Field(
        "auto", description="Weights of 7 bits; auto: where this CPU's 8-bit kernels would overflow."
    )
    calibration: OnnxCalibration = Field(OnnxCalibration(), description="How activation ranges are chosen.")
    keep_float: tuple[str, ...] = Field((), description="Names of layers that stay float.")

    @model_validator(mode="after")
    def _check_types(self) -> "OnnxQuantization":
        if self.mode == "dynamic" and self.types == "s8s8":
            raise ValueError("dynamic quantization has unsigned activations; let types be u8s8 or u8u8")
        return self

    def calibration_samples(self) -> int:
        """None in dynamic mode."""
        return self.calibration.samples if self.mode == "static" else 0

    def weight_bits(self, layer: LayerDescription) -> Bits:  # noqa: ARG002  the same for all
        """A byte; scales come on top."""
        return packed(BYTE)

    def requires(self, description: ModelDescription) -> Capability:
        """Convolutions and products with stored weights, in dynamic mode LSTMs too; not what is quantized already."""
        done = sorted(INTEGER_OPERATORS & set(description.operators))
        if done:
            return Capability(ok=False, why=f"The model is quantized already: it has {', '.join(done)}.")
        size = description.bytes_stripped
        if description.mode == "network" and description.format != "onnx":
            # It is written as ONNX first, in fp32.
            size = max(size, 4 * description.parameters)
        if size > LARGEST_FILE:
            return Capability(ok=False, why=f"{TOO_LARGE} This one has {size:,} bytes.")
        if unknown := tell_unknown(description, keep_float=self.keep_float):
            return Capability(ok=False, why=unknown)
        kinds = ONNX_KINDS[self.mode]
        chosen = tuple(
            layer.name for layer in description.layers if layer.kind in kinds and layer.name not in self.keep_float
        )
        inside = bool(CONTROL_FLOW & set(description.operators))
        if not chosen and (self.mode == "static" or not inside):
            why = f"No layer of a kind that {self.mode} quantization takes is left: {', '.join(sorted(kinds))}."
            hint = " What is inside of branches and loops is taken by the mode `dynamic` only." if inside else ""
            return Capability(ok=False, why=f"{why}{hint}")
        return Capability(ok=True, layers=chosen)
