"""The table of layers in a verdict of an ONNX file: what its nodes store, found by the names of the layers."""

from pathlib import Path

import onnx

from core.compression.method import Report
from core.description import ModelDescription
from core.measure.onnx_graph import OnnxGraph, load_graph
from core.measure.profile import find_layer
from core.measure.roles import TRANSPARENT
from core.measure.size import data_bytes
from core.verdict import LayerVerdict, Sensitivity


def list_file_layers(described: ModelDescription, path: Path, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
    """One row for each described layer; a constant that two layers read is counted to the first."""
    graph = load_graph(path)
    sensitivities = {name: found for report in reports for name, found in report.sensitivities.items()}
    stored = _constants_by_layer(graph, tuple(layer.name for layer in described.layers))
    return tuple(
        LayerVerdict(
            name=layer.name,
            kind=layer.kind,
            encoding=_encoding(stored[layer.name]),
            shape="×".join(str(size) for size in layer.weight_shape),
            sensitivity=sensitivities.get(layer.name, Sensitivity()),
            bytes_before=4 * layer.parameters,
            bytes=sum(data_bytes(tensor) for tensor in stored[layer.name]),
        )
        for layer in described.layers
    )


def list_changed_layers(described: ModelDescription, before: Path, after: Path) -> tuple[str, ...]:
    """The described layers whose weight a step has stored in another type."""
    rows = zip(list_file_layers(described, before, ()), list_file_layers(described, after, ()), strict=True)
    return tuple(one.name for one, other in rows if one.encoding != other.encoding)


def _constants_by_layer(graph: OnnxGraph, layers: tuple[str, ...]) -> dict[str, list[onnx.TensorProto]]:
    makers = {name: node for node in graph.nodes for name in node.output}
    found: dict[str, list[onnx.TensorProto]] = {layer: [] for layer in layers}
    taken: set[str] = set()
    for node in graph.nodes:
        layer = find_layer([node.name, *node.input], layers)
        waiting = list(node.input) if layer is not None else []
        while layer is not None and waiting:
            name = waiting.pop()
            maker = makers.get(name)
            if name in graph.constants and name not in taken:
                taken.add(name)
                found[layer].append(graph.constants[name])
            elif maker is not None and maker.op_type in TRANSPARENT and maker.input[0] in graph.constants:
                waiting.extend(maker.input)
    return found


def _encoding(stored: list[onnx.TensorProto]) -> str:
    """The type of the largest constant: those of a layer are a weight, and small ones beside it."""
    if not stored:
        return "float32"
    largest = max(stored, key=data_bytes)
    name = onnx.TensorProto.DataType.Name(largest.data_type).lower()
    return "float32" if largest.data_type == onnx.TensorProto.FLOAT else name
