"""What each constant of an ONNX graph is: weight, bias, scale, codebook, index, or part of the graph itself."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from core.measure.onnx_graph import OnnxGraph, TensorCost
from core.network.export_compact import PRODUCER
from core.network.onnx_outside import is_outside, map_tensor

Role = Literal["weights", "biases", "scales", "codebooks", "indices", "graph"]

WEIGHT_AND_BIAS: dict[int, Role] = {1: "weights", 2: "biases"}
BOTH_FACTORS: dict[int, Role] = {0: "weights", 1: "weights"}
# By operator, the role of each input that may be a constant.
ROLES: dict[str, dict[int, Role]] = {
    "Conv": WEIGHT_AND_BIAS,
    "ConvTranspose": WEIGHT_AND_BIAS,
    "Gemm": WEIGHT_AND_BIAS,
    "LayerNormalization": WEIGHT_AND_BIAS,
    "InstanceNormalization": WEIGHT_AND_BIAS,
    "GroupNormalization": WEIGHT_AND_BIAS,
    # Running statistics are no parameters.
    "BatchNormalization": WEIGHT_AND_BIAS | {3: "graph", 4: "graph"},
    "MatMul": BOTH_FACTORS,
    "MatMulInteger": BOTH_FACTORS | {2: "scales", 3: "scales"},
    "ConvInteger": {1: "weights", 2: "scales", 3: "scales"},
    "QLinearConv": {3: "weights", 8: "biases", **dict.fromkeys((1, 2, 4, 5, 6, 7), "scales")},
    "QLinearMatMul": {0: "weights", 3: "weights", **dict.fromkeys((1, 2, 4, 5, 6, 7), "scales")},
    "QGemm": {3: "weights", 6: "biases", **dict.fromkeys((1, 2, 4, 5, 7, 8), "scales")},
    "QuantizeLinear": {1: "scales", 2: "scales"},
    "DequantizeLinear": {1: "scales", 2: "scales"},
}
# Operators whose first input keeps its role in what they answer.
TRANSPARENT = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice"}
)
INTEGERS_OF_WEIGHTS = frozenset(
    {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
)
SAID: dict[str, Role] = {role: role for role in ("weights", "biases", "scales", "codebooks", "indices")}
VALUES_OF_MASK = 2
# Looked at first, since most tables show with these that they are no masks.
SOME_NUMBERS = 4096
FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
)


def find_roles(graph: OnnxGraph) -> dict[str, Role]:
    """The role of every constant, from the operators that read it; what no rule knows is judged by type and shape."""
    return {name: _find_role(graph, name, tensor) for name, tensor in graph.constants.items()}


def count_parameters(graph: OnnxGraph, tensors: Mapping[str, TensorCost]) -> int:
    """How many weights and biases there are; a weight that is stored as an index counts once.

    `tensors` has the shapes of values; a weight that our own files store in parts is counted once it is put together.
    """
    roles = find_roles(graph)
    parts = {name for name in roles if _said(graph, name) is not None}
    made = {
        name
        for node in graph.nodes
        if node.output[0] not in graph.folded
        for name in node.input
        if graph.folded.get(name, frozenset()) & parts
    }
    shapes = [tensors[name].shape for name in made]
    for name, role in roles.items():
        if role in ("weights", "biases", "indices") and name not in parts:
            shapes.append(tuple(graph.constants[name].dims))
    return sum(map(math.prod, shapes))


def _said(graph: OnnxGraph, name: str) -> Role | None:
    """What our own files say of a part of an encoded weight."""
    _, slash, role = name.rpartition("/")
    return SAID.get(role) if slash and graph.model.producer_name == PRODUCER else None


def _find_role(graph: OnnxGraph, name: str, tensor: onnx.TensorProto) -> Role:
    said = _said(graph, name)
    if said is not None:
        return said
    for node, index in graph.consumers[name]:
        role = ROLES.get(node.op_type, {}).get(index)
        if role is not None:
            return role
        if node.op_type == "Gather" and (role := _gathered(graph, node, index)) is not None:
            return role
        if node.op_type in TRANSPARENT and index == 0:
            return _find_role(graph, node.output[0], tensor)
    return _guess(tensor)


def _gathered(graph: OnnxGraph, node: onnx.NodeProto, index: int) -> Role | None:
    """A codebook is a vector that constant indices look up; another table that is looked up is a weight."""
    table = graph.constants.get(node.input[0])
    if table is not None and len(table.dims) == 1 and _is_constant(graph, node.input[1]):
        return "codebooks" if index == 0 else "indices"
    if index == 0 and table is not None and list(table.dims[1:]) == [1] and _scales_integers(graph, node.output[0]):
        return "scales"
    return "weights" if index == 0 else None


def _scales_integers(graph: OnnxGraph, name: str) -> bool:
    """Whether rows of integers, made floats, are multiplied by this value."""
    factors = {factor for node, _ in graph.consumers[name] if node.op_type == "Mul" for factor in node.input}
    return any(node.op_type == "Cast" and node.output[0] in factors for node in graph.nodes)


def _is_constant(graph: OnnxGraph, name: str) -> bool:
    if name in graph.constants:
        return True
    maker = next((node for node in graph.nodes if name in node.output), None)
    return maker is not None and maker.op_type in TRANSPARENT and _is_constant(graph, maker.input[0])


def _guess(tensor: onnx.TensorProto) -> Role:
    sizes = [size for size in tensor.dims if size != 1]
    if not sizes or tensor.data_type not in FLOATS | INTEGERS_OF_WEIGHTS or _is_mask(tensor):
        return "graph"
    return "weights" if len(sizes) > 1 else "biases"


def _is_mask(tensor: onnx.TensorProto) -> bool:
    """Attention masks are tables of two values, what was trained is not."""
    numbers = map_tensor(tensor, {}) if is_outside(tensor) else onnx.numpy_helper.to_array(tensor)
    some = numbers.reshape(-1)[:SOME_NUMBERS]
    return all(len(np.unique(part)) <= VALUES_OF_MASK for part in (some, numbers))
