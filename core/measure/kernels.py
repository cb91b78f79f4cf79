"""The products of a graph as a runtime computes them: in integers or in floats, how often, with how much work space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from core.measure.costs import CONVOLUTIONS, WEIGHTS, count_macs
from core.measure.onnx_graph import OnnxGraph, TensorCost
from core.measure.optimised import TracedGraph

# What onnxruntime computes in 8-bit integers.
INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
POINTER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Kernel:
    """One product with its multiply-accumulates.

    `names` are its own and those of its inputs, by which its layer is found; `rows` is how often each weight is used;
    `weighted` says that one factor is constant. An integer convolution of more than one tap has `taps` and the
    `pixels` of one output.
    """

    names: tuple[str, ...]
    macs: int
    rows: int
    integer: bool
    weighted: bool
    taps: int = 0
    pixels: int = 0

    @property
    def workspace_bytes(self) -> int:
        """What onnxruntime's integer convolution takes beside its tensors: a pointer for each tap of each pixel.

        Images are taken one after the other, so that the batch does not count (measured with onnxruntime 1.32).
        """
        return POINTER_BYTES * self.taps * self.pixels


def find_kernels(traced: TracedGraph) -> tuple[Kernel, ...]:
    """Every product of onnxruntime's graph, for the feed that it was traced with."""
    graph = traced.graph
    tensors = traced.tensors | {name: TensorCost(tuple(each.dims), 0) for name, each in graph.constants.items()}
    running = [node for node in graph.nodes if node.op_type in WEIGHTS and node.output[0] not in graph.folded]
    return tuple(_read(node, graph, tensors) for node in running)


def rounds_activations(graph: OnnxGraph) -> bool:
    """Whether a file makes integers of what its nodes answer, or computes in them."""
    rounding = INTEGER_KERNELS | {"QuantizeLinear", "DynamicQuantizeLinear"}
    return any(node.op_type in rounding and node.output[0] not in graph.folded for node in graph.nodes)


def add_unseen(kernels: tuple[Kernel, ...], wanted: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels of another runtime, and the products of the file that it hides in fused nodes as one float kernel."""
    unseen = sum(kernel.macs for kernel in wanted) - sum(kernel.macs for kernel in kernels)
    if unseen <= 0:
        return kernels
    rows = max(kernel.rows for kernel in wanted)
    return (*kernels, Kernel(("fused",), unseen, rows, integer=False, weighted=False))


def integer_share(kernels: Sequence[Kernel]) -> float:
    """The share of multiply-accumulates that integer kernels do."""
    return sum(kernel.macs for kernel in kernels if kernel.integer) / max(sum(kernel.macs for kernel in kernels), 1)


def _read(node: onnx.NodeProto, graph: OnnxGraph, tensors: dict[str, TensorCost]) -> Kernel:
    made = tensors.get(node.output[0])
    out = made.shape if made is not None else ()
    weight = node.input[WEIGHTS[node.op_type]]
    columns = _axis(out, 1) if node.op_type in CONVOLUTIONS else _axis(out, -1)
    taps = math.prod(tensors[weight].shape[2:]) if node.op_type == "QLinearConv" else 1
    return Kernel(
        names=(node.name, *node.input),
        macs=count_macs(node, tensors),
        rows=math.prod(out) // columns,
        integer=node.op_type in INTEGER_KERNELS,
        weighted=weight in graph.constants or weight in graph.folded,
        taps=taps if taps > 1 else 0,
        pixels=math.prod(out[2:]) if taps > 1 else 0,
    )


def _axis(shape: tuple[int, ...], axis: int) -> int:
    return max(shape[axis], 1) if len(shape) > 1 else 1
