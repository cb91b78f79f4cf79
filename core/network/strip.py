"""Stripping: an ONNX model without the paths, stack traces and remarks that exporters leave in it."""

from collections.abc import Iterable, MutableSequence

import onnx

from core.network.onnx_outside import is_outside, place_of, put_outside

# What exporters write for people who debug them.
_TRACES = ("pkg.torch", "pkg.onnxscript", "namespace", "source", "stack_trace")


def strip_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without doc strings, exporters' traces and paths of weights; the user's own `metadata_props` stay.

    It is for counting bytes: of a weight that is in another file only that file's name is left.
    """
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    strip_in_place(stripped)
    return stripped


def strip_in_place(model: onnx.ModelProto) -> None:
    """Strip a model that nobody else has, without a copy of its weights."""
    model.ClearField("doc_string")
    _keep_own(model.metadata_props)
    _strip_graph(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        _strip_nodes(function.node)
        _strip_values(function.value_info)


def own_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The user's own metadata of a model: names of classes, strides, and so on."""
    return {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(_TRACES)}


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    _strip_nodes(graph.node)
    _strip_values([*graph.input, *graph.output, *graph.value_info])
    for tensor in graph.initializer:
        _strip_tensor(tensor)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("t"):
                _strip_tensor(attribute.t)
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)


def _strip_values(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        value.ClearField("doc_string")
        del value.metadata_props[:]


def _strip_tensor(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("doc_string")
    del tensor.metadata_props[:]
    if is_outside(tensor):
        location, offset, length = place_of(tensor)
        put_outside(tensor, location.rpartition("/")[2], offset, length)


def _keep_own(entries: MutableSequence[onnx.StringStringEntryProto]) -> None:
    for index in reversed(range(len(entries))):
        if entries[index].key.startswith(_TRACES):
            del entries[index]
