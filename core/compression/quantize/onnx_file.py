"""`quantize.onnx`: onnxruntime's own quantizer, on an ONNX file as it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
import onnx
from google.protobuf.message import Error as ProtobufError  # type: ignore[import-untyped]  # protobuf publishes no types
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from core.compression.context import Context
from core.compression.method import FileMethod, Report
from core.compression.quantize.inner_graphs import all_nodes, float_bytes_inside, inner_graphs, name_nodes
from core.compression.quantize.saturation import kernels_saturate
from core.data.dataset import Dataset
from core.errors import ModelpressError
from core.findings import make_finding
from core.measure.memory import planned_peak_bytes
from core.measure.profile import find_layer
from core.measure.runtime import RUNTIME_ERRORS, fixed_batch, open_session
from core.measure.words import say_bytes
from core.network.silence import silence
from core.network.strip import own_metadata, strip_in_place
from core.specs.onnx_quantize import INTEGER_OPERATORS, LARGEST_FILE, TOO_LARGE, OnnxQuantization
from core.verdict import Finding

TYPES = {
    "u8s8": (QuantType.QUInt8, QuantType.QInt8),
    "u8u8": (QuantType.QUInt8, QuantType.QUInt8),
    "s8s8": (QuantType.QInt8, QuantType.QInt8),
}
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
# A calibrator holds the tensors of one batch; their planned peak stays below so many bytes where one sample's does.
BATCH_BYTES = 1 << 26
MOST_IN_BATCH = 32
# The quantizer and what it calls have no common base class for what they raise.
FAILURES = (
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ProtobufError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    *RUNTIME_ERRORS,
)

Feed = dict[str, NDArray[Any]]


@final
class OnnxQuantizer(FileMethod[OnnxQuantization]):
    """`onnxruntime.quantization.quantize_static` and `quantize_dynamic`, after `quant_pre_process`."""

    def apply(self, model: Path, result: Path, spec: OnnxQuantization, context: Context) -> Report:
        """Name the nodes, simplify, calibrate, quantize, strip; raises `quantizer_failed`, `missing_data`."""
        original = _load(model)
        metadata = own_metadata(original)
        saturates = spec.types == "u8s8" and kernels_saturate(context.target.threads)
        reduced = _recorded_range(context) if spec.reduce_range == "auto" else spec.reduce_range == "on"
        reduced = saturates if reduced is None else reduced
        with TemporaryDirectory() as folder, silence("root"):
            prepared = _prepare(original, Path(folder), context)
            # Files may have two gigabytes, so that copies that nobody needs any more are let go.
            del original
            written = Path(folder) / "quantized.onnx"
            choice = _choose(prepared, spec, reduced=reduced)
            _quantize(prepared, written, spec, context, choice)
            quantized = onnx.load(written)
        if not any(node.op_type in INTEGER_OPERATORS for node in all_nodes(quantized.graph)):
            raise ModelpressError("quantizer_failed", "onnxruntime's quantizer left every node of the file in float.")
        # The user's own metadata without the marks of the quantizer.
        del quantized.metadata_props[:]
        onnx.helper.set_model_props(quantized, metadata)
        strip_in_place(quantized)
        result.write_bytes(quantized.SerializeToString(deterministic=True))
        context.progress(1.0, f"quantized by onnxruntime, {spec.mode}")
        return Report(
            layers=(),
            findings=(
                *_judge_saturation(spec, saturates=saturates, reduced=reduced),
                *_judge_inside(quantized, spec),
            ),
            plan={"reduce_range": reduced, "nodes_kept_float": [*choice.kept]},
        )


@final
@dataclass(frozen=True)
class _Choice:
    """What was decided before the quantizer is called: weights of 7 bits, and the nodes that stay float."""

    reduced: bool
    kept: list[str]
    has_inner_graphs: bool


@final
class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no types
    """Feeds one batch after the other; with a stride of 1 the calibrator forgets each before the next."""

    def __init__(self, feeds: Iterator[Feed], count: int) -> None:
        self._feeds = feeds
        self._count = count
        self._left = 0

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        """How many batches are asked for next; they come in order."""
        self._left = end_index - start_index

    def get_next(self) -> Feed | None:
        """The next batch of the range, None after its last."""
        if not self._left:
            return None
        self._left -= 1
        return next(self._feeds, None)


def _recorded_range(context: Context) -> bool | None:
    """Whether the job of the plan reduced the range, None without a plan; raises `invalid_request`."""
    if context.recorded is None:
        return None
    recorded = context.recorded.get("reduce_range")
    if not isinstance(recorded, bool):
        sentence = f"The plan does not say whether {context.step} reduced the range of the weights."
        raise ModelpressError("invalid_request", sentence, pointer="/plan")
    return recorded


def _load(path: Path) -> onnx.ModelProto:
    """The model with a name for every node, the one that the description gives it; raises `graph_too_large`."""
    model = onnx.load(path)
    if model.ByteSize() > LARGEST_FILE:
        raise ModelpressError("graph_too_large", TOO_LARGE)
    name_nodes(model.graph)
    return model


def _prepare(model: onnx.ModelProto, folder: Path, context: Context) -> Path:
    """Shapes inferred and the graph simplified; without simplifying where that fails; raises `quantizer_failed`."""
    named, prepared = folder / "named.onnx", folder / "prepared.onnx"
    onnx.save(model, named)
    for simplify in (True, False):
        try:
            quant_pre_process(named, prepared, skip_optimization=not simplify, skip_symbolic_shape=True)
        except FAILURES as error:
            told = f"{type(error).__name__}: {str(error).strip()[:300]}"
            if not simplify:
                raise ModelpressError(
                    "quantizer_failed", f"The shapes of the file cannot be inferred: {told}"
                ) from error
            context.log(f"onnxruntime could not simplify the file, so it is quantized as it is. {told}", "warning")
        else:
            return prepared
    raise AssertionError


def _choose(prepared: Path, spec: OnnxQuantization, *, reduced: bool) -> _Choice:
    graph = onnx.load(prepared).graph
    return _Choice(reduced, _nodes_of(spec.keep_float, graph), any(True for _ in inner_graphs(graph)))


def _nodes_of(layers: tuple[str, ...], graph: onnx.GraphProto) -> list[str]:
    """The nodes of the layers that are to stay float; raises `quantizer_failed` for a layer that has none left."""
    found = {node.name: find_layer([node.name, *node.input], layers) for node in graph.node}
    if lost := sorted(set(layers) - set(found.values())):
        raise ModelpressError(
            "quantizer_failed",
            f"onnxruntime has merged {', '.join(lost)} with other nodes, so that it cannot be kept in float by name.",
            hint="Leave it out of `keep_float`.",
        )
    return [name for name, layer in found.items() if layer is not None]


def _quantize(prepared: Path, written: Path, spec: OnnxQuantization, context: Context, choice: _Choice) -> None:
    activations, weights = TYPES[spec.types]
    options = {
        "per_channel": spec.per_channel,
        "reduce_range": choice.reduced,
        "weight_type": weights,
        "nodes_to_exclude": choice.kept,
    }
    try:
        if spec.mode == "dynamic":
            _quantize_dynamic(prepared, written, options, context, inside=choice.has_inner_graphs)
            return
        reader = _reader(prepared, spec, context)
        # The quantizer drops a Relu although a branch or loop reads its output by name, and so changes the answers.
        extra: dict[str, object] = {"CalibStridedMinMax": 1, "QDQKeepRemovableActivations": choice.has_inner_graphs}
        if spec.calibration.method == "percentile":
            extra["CalibPercentile"] = spec.calibration.percentile
        quantize_static(
            prepared,
            written,
            reader,
            activation_type=activations,
            calibrate_method=METHODS[spec.calibration.method],
            extra_options=extra,
            **options,
        )
    except FAILURES as error:
        told = f"{type(error).__name__}: {str(error).strip()[:500]}"
        raise ModelpressError("quantizer_failed", f"onnxruntime's quantizer failed: {told}") from error


def _quantize_dynamic(
    prepared: Path, written: Path, options: dict[str, object], context: Context, *, inside: bool
) -> None:
    """Graphs inside too, except where the quantizer cannot find a weight that an outer graph lends them."""
    if inside:
        try:
            quantize_dynamic(prepared, written, extra_options={"EnableSubgraph": True}, **options)
        except FAILURES as error:
            told = f"{type(error).__name__}: {str(error).strip()[:300]}"
            context.log(f"onnxruntime could not quantize inside of branches and loops. {told}", "warning")
        else:
            return
    quantize_dynamic(prepared, written, **options)


def _reader(prepared: Path, spec: OnnxQuantization, context: Context) -> _Reader:
    """Calibration samples in batches; the last one is left out where the file takes one size only."""
    dataset = context.dataset
    if dataset is None or not dataset.count("calibration"):
        raise ModelpressError(
            "missing_data",
            "Static quantization needs calibration samples, and none can be drawn for this model.",
            hint="Give a data set, or use the mode `dynamic`.",
        )
    size = fixed_batch(open_session(prepared, 1))
    batch = size or _batch_size(prepared, dataset)
    limit = min(spec.calibration.samples, dataset.count("calibration"))
    count = limit // size if size else -(-limit // batch)
    if not count:
        raise ModelpressError("missing_data", f"There are {limit} calibration samples, and one batch takes {size}.")
    return _Reader(_feeds(dataset, batch, limit, count, context), count)


def _feeds(dataset: Dataset, batch: int, limit: int, count: int, context: Context) -> Iterator[Feed]:
    for index, samples in zip(range(count), dataset.batches("calibration", batch, limit), strict=False):
        context.progress(0.1 + 0.7 * index / count, f"Calibrating on {limit} samples")
        yield {name: np.ascontiguousarray(value.numpy()) for name, value in samples.inputs.items()}


def _batch_size(prepared: Path, dataset: Dataset) -> int:
    first = next(dataset.batches("calibration", 1, 1))
    feed = {name: value.numpy() for name, value in first.inputs.items()}
    return max(1, min(MOST_IN_BATCH, BATCH_BYTES // max(planned_peak_bytes(prepared, feed), 1)))


def _judge_inside(quantized: onnx.ModelProto, spec: OnnxQuantization) -> tuple[Finding, ...]:
    size = float_bytes_inside(quantized.graph)
    if not size:
        return ()
    text = f"Weights of {say_bytes(size)} that branches and loops read stayed float"
    if spec.mode == "static":
        text += ": static quantization takes the main graph only. The mode `dynamic` can take more."
    else:
        text += ": onnxruntime's quantizer has no integer operator for them or does not find them."
    return (make_finding("weights_inside_float", text),)


def _judge_saturation(spec: OnnxQuantization, *, saturates: bool, reduced: bool) -> tuple[Finding, ...]:
    if saturates and not reduced:
        text = (
            "This CPU has no VNNI and adds pairs of 8-bit products in 16 bits; weights of full range can overflow. "
            "Let reduce_range be auto, or types u8u8."
        )
        return (make_finding("saturates_here", text),)
    if saturates and spec.reduce_range == "auto":
        text = "The 8-bit kernels of this CPU overflow on weights of full range, so 7-bit weights were used."
        return (make_finding("saturation_avoided", text),)
    return ()
