"""Whether 8-bit products are exact on this CPU, and what to do where they are not."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from core.compression.quantize.integers import IntegerNetwork
from core.measure.runtime import open_session, run_session
from core.network.encodings import Grid, symmetric_grid
from core.network.export_check import relative_difference
from core.network.network import Network

Choice = Literal["full_range", "seven_bit", "unsigned"]

GRIDS: dict[Choice, Grid] = {
    "full_range": symmetric_grid(8),
    "seven_bit": symmetric_grid(7),
    "unsigned": symmetric_grid(8, unsigned=True),
}
# Where all sums are exact, what is left are roundings that fall to the other side of a boundary.
EXACT_TOLERANCE = 0.02

_DEPTH = 64
_OUTPUTS = 32
_LARGEST_INPUT = 255


@dataclass(frozen=True)
class Cut:
    """What the kernel without VNNI would do to a file: share of sums cut in the worst layer, and to the answers.

    `difference` is the relative root mean square of the outputs' change, `changed` the share of other answers.
    """

    layer: str
    share: float
    difference: float
    changed: float


def kernels_saturate(threads: int = 1) -> bool:
    """Whether onnxruntime gets u8 × s8 products wrong on this CPU: seen on full-range numbers, not read from flags."""
    product = _run(_product_model(), {"x": _full_inputs((4, _DEPTH))}, threads)
    convolution = _run(_convolution_model(), {"x": _full_inputs((1, _DEPTH, 3, 3))}, threads)
    exact = _full_inputs((4, _DEPTH)).astype(np.int64) @ _full_weights().astype(np.int64)
    # The convolution's own scale brings the exact sum of one window to 200.
    return bool((product != exact).any() or (convolution != _CONVOLUTION_ANSWER).any())


def predict_cut(network: Network, inputs: tuple[Tensor, ...]) -> Cut | None:
    """What a CPU without VNNI would compute for `inputs`, by the model of its kernel; None when nothing is cut."""
    cutting = IntegerNetwork(network, "pairs_of_16_bits")
    found = cutting.answer(inputs)
    shares = {path: cut / cutting.sums[path] for path, cut in cutting.cut.items() if cut}
    if not shares:
        return None
    wanted = IntegerNetwork(network, "exact").answer(inputs)
    worst = max(shares, key=lambda path: shares[path])
    changed = float((found.argmax(-1) != wanted.argmax(-1)).double().mean()) if found.dim() > 1 else 0.0
    return Cut(worst, shares[worst], relative_difference(found.numpy(), wanted.numpy()), changed)


def _full_inputs(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, _LARGEST_INPUT, dtype=np.uint8)


def _full_weights() -> NDArray[np.int8]:
    """(depth, outputs): columns of all 127 or all −128, so that each pair of products is far outside 16 bits."""
    signs = np.where(np.arange(_OUTPUTS) % 2 == 0, 127, -128)
    return np.tile(signs, (_DEPTH, 1)).astype(np.int8)


def _run(model: onnx.ModelProto, feed: dict[str, NDArray[np.uint8]], threads: int) -> NDArray[np.int64]:
    (answer,) = run_session(open_session(model.SerializeToString(), threads), feed)
    return np.asarray(answer).astype(np.int64)


def _product_model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", _DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", _OUTPUTS])],
        [numpy_helper.from_array(_full_weights(), "w")],
    )
    return _model(graph)


_WINDOW_SUM = _LARGEST_INPUT * 127 * _DEPTH
_CONVOLUTION_ANSWER = 200


def _convolution_model() -> onnx.ModelProto:
    """A 1×1 convolution with weights 127, scaled so that the exact answer is 200 of 255."""
    weight = np.full((_OUTPUTS, _DEPTH, 1, 1), 127, dtype=np.int8)
    constants = {
        "one": np.float32(1.0),
        "zero": np.uint8(0),
        "w": weight,
        "w_zero": np.int8(0),
        "y_scale": np.float32(_WINDOW_SUM / _CONVOLUTION_ANSWER),
    }
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", ["x", "one", "zero", "w", "one", "w_zero", "y_scale", "zero"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", _DEPTH, "h", "v"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n", _OUTPUTS, "h", "v"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
