"""The graphs inside of an ONNX graph: the branches of `If` and the bodies of loops."""

import itertools
from collections.abc import Iterator

import onnx

from core.measure.size import data_bytes

# Smaller constants, and vectors, are shapes, bounds and biases.
SMALLEST_WEIGHT_BYTES = 1024


def inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Every graph inside of `graph`, at any depth, outer ones first."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield inner
                yield from inner_graphs(inner)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of all graphs inside of it."""
    yield from graph.node
    for inner in inner_graphs(graph):
        yield from inner.node


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name: what it makes, as descriptions call it; inside, a name that no other node has."""
    for node in graph.node:
        node.name = node.name or next((name for name in node.output if name), "")
    taken = {node.name for node in graph.node}
    numbers = itertools.count()
    for inner in inner_graphs(graph):
        for node in inner.node:
            name = node.name or next((name for name in node.output if name), "")
            node.name = name
            while node.name in taken:
                node.name = f"{name}_inside_{next(numbers)}"
            taken.add(node.name)


def float_bytes_inside(graph: onnx.GraphProto) -> int:
    """Bytes of the fp32 weights that only the graphs inside read: their own, and the outer graph's."""
    inside = list(inner_graphs(graph))
    own = [tensor for inner in inside for tensor in (*inner.initializer, *_constants(inner))]
    read_inside = {name for inner in inside for node in inner.node for name in node.input}
    read_outside = {name for node in graph.node for name in node.input}
    outer = (*graph.initializer, *_constants(graph))
    lent = [tensor for tensor in outer if tensor.name in read_inside - read_outside]
    floats = [tensor for tensor in (*own, *lent) if tensor.data_type == onnx.TensorProto.FLOAT]
    sizes = [data_bytes(tensor) for tensor in floats if len(tensor.dims) > 1]
    return sum(size for size in sizes if size >= SMALLEST_WEIGHT_BYTES)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """What the Constant nodes of a graph hold, under the names of their outputs."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            yield tensor
