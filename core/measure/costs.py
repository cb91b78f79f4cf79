"""Parameters and multiply-accumulates of an ONNX file."""

import math
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.measure.onnx_graph import TensorCost, load_graph, trace_tensors
from core.measure.roles import count_parameters
from core.measure.runtime import Feed, count_fed

# Where each operator has its weight (the second factor of its products), fused ones of onnxruntime included.
CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
TRANSPOSED_CONVOLUTIONS = {"ConvTranspose": 1}
FIRST_FACTOR = 0
PRODUCTS = {
    "MatMul": 1,
    "FusedMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearMatMul": 3,
    "Gemm": 1,
    "FusedGemm": 1,
    "QGemm": 3,
}
WEIGHTS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | PRODUCTS


@dataclass(frozen=True, slots=True)
class Costs:
    """Weights and biases of a file, and multiply-accumulates for one sample."""

    parameters: int
    macs: int


def count_costs(path: Path, feed: Feed) -> Costs:
    """Costs of the file as written, measured at the batch size of `feed`."""
    graph = load_graph(path)
    tensors = trace_tensors(graph, feed)
    for name, constant in graph.constants.items():
        tensors[name] = TensorCost(tuple(constant.dims), 0)
    batch = count_fed(graph.inputs, feed)
    running = [node for node in graph.nodes if node.output[0] not in graph.folded]
    return Costs(count_parameters(graph, tensors), sum(count_macs(node, tensors) for node in running) // batch)


def count_macs(node: onnx.NodeProto, tensors: dict[str, TensorCost]) -> int:
    """Products of one node: output elements times terms of each sum (of a transposed convolution: of each input)."""
    shapes = [tensors[name].shape if name in tensors else () for name in node.input]
    out = math.prod(tensors[node.output[0]].shape) if node.output[0] in tensors else 0
    if node.op_type in CONVOLUTIONS:
        # A weight is (out, in/groups, *kernel).
        return out * math.prod(shapes[CONVOLUTIONS[node.op_type]][1:])
    if node.op_type in TRANSPOSED_CONVOLUTIONS:
        # A weight is (in, out/groups, *kernel).
        return math.prod(shapes[0]) * math.prod(shapes[TRANSPOSED_CONVOLUTIONS[node.op_type]][1:])
    if node.op_type in PRODUCTS:
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        terms = shapes[FIRST_FACTOR]
        return out * (terms[0] if transposed else terms[-1])
    return 0
