"""Puts encoded weights into a written ONNX graph, in the place of the nodes that stand for them."""

import math
from collections.abc import Callable, Mapping, MutableSequence

import onnx

from core.network.encodings import Written
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.encodings.operators import DOMAIN, STORED
from core.network.export_compact import short_names

# Weights of a network, and of one parameter, from which on memory while loading matters more than some bytes.
_STAGED = 4_000_000
_STAGED_WEIGHT = 1 << 16
# Rounds of folding in which weights are begun, of the ten that onnxruntime makes; a weight that begins one takes two.
ROUNDS = 6


def put_stored(model: onnx.ModelProto, written: Written) -> onnx.ModelProto:
    """The model, changed in place: each encoding that a `Stored` node names is written once, before all that runs."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    writer = OnnxWriter(short_names(taken))
    sizes = {key: math.prod(each.shape) for key, each in zip(written.writes, written.encodings, strict=True)}
    stages = _stages(sizes)
    values: dict[str, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type != STORED:
            kept.append(node)
            continue
        key = onnx.helper.get_node_attr_value(node, "key").decode()
        if key not in values:
            staged, start = stages.get(key, (False, 0))
            writer.begin(key, staged=staged, start=start)
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


def _stages(sizes: Mapping[str, int]) -> dict[str, tuple[bool, int]]:
    """Of large networks' large weights: whether their own steps are spread over rounds, and in which they begin.

    Each round takes the steps of its weights, so that these are shared out; what is more than the share is spread.
    """
    large = {key: size for key, size in sizes.items() if size >= _STAGED_WEIGHT}
    whole, before = sum(large.values()), 0
    stages = {}
    for key, size in large.items() if sum(sizes.values()) >= _STAGED else ():
        spread = size * ROUNDS > whole * 2
        stages[key] = (spread, 0 if spread else before * ROUNDS // whole)
        before += size
    return stages


def _drop(
    entries: MutableSequence[onnx.OperatorSetIdProto], unwanted: Callable[[onnx.OperatorSetIdProto], bool]
) -> None:
    for index in reversed(range(len(entries))):
        if unwanted(entries[index]):
            del entries[index]
