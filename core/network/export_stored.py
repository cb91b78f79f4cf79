"""Puts encoded weights into a written ONNX graph, in the place of the nodes that stand for them."""

import math
from collections.abc import Callable, MutableSequence

import onnx

from core.network.encodings import Written
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.encodings.operators import DOMAIN, STORED
from core.network.export_compact import short_names

# Weights of a network, and of one parameter, from which on memory while loading matters more than some bytes.
_STAGED = 4_000_000
_STAGED_WEIGHT = 1 << 16


def put_stored(model: onnx.ModelProto, written: Written) -> onnx.ModelProto:
    """The model, changed in place: each encoding that a `Stored` node names is written once, before all that runs."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    writer = OnnxWriter(short_names(taken))
    sizes = {key: math.prod(each.shape) for key, each in zip(written.writes, written.encodings, strict=True)}
    large = sum(sizes.values()) >= _STAGED
    values: dict[str, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type != STORED:
            kept.append(node)
            continue
        key = onnx.helper.get_node_attr_value(node, "key").decode()
        if key not in values:
            writer.begin(key, staged=large and sizes[key] >= _STAGED_WEIGHT)
            values[key] = written.writes[key](writer)
        renamed[node.output[0]] = values[key]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend([*writer.nodes, *kept])
    graph.initializer.extend(writer.initializers)
    _drop(model.opset_import, lambda entry: entry.domain == DOMAIN)
    return model


def _drop(
    entries: MutableSequence[onnx.OperatorSetIdProto], unwanted: Callable[[onnx.OperatorSetIdProto], bool]
) -> None:
    for index in reversed(range(len(entries))):
        if unwanted(entries[index]):
            del entries[index]
