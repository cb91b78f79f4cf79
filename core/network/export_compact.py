"""Makes a freshly exported ONNX model small and clean: nothing but what computes, under short or meaningful names."""

import hashlib
from collections.abc import Iterator

import onnx

from core.network.encodings.operators import DOMAIN, STORED
from core.network.network import Network

PRODUCER = "modelpress"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def compact_onnx(model: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    """A model that holds no paths, stack traces or repeated constants; inputs and outputs as the network names them."""
    graph = model.graph
    _rename_interface(graph, network)
    _share_initializers(graph)
    _rename_values(graph, parameters=_parameter_names(network))
    _rename_nodes(graph)
    _drop_defaults(graph, next(entry.version for entry in model.opset_import if entry.domain == ""))
    clean = onnx.helper.make_model(
        graph, producer_name=PRODUCER, ir_version=model.ir_version, opset_imports=model.opset_import
    )
    if model.functions:
        clean.functions.extend(model.functions)
    onnx.helper.set_model_props(clean, network.metadata)
    return clean


def _parameter_names(network: Network) -> frozenset[str]:
    return frozenset(
        name
        for name, _ in [*network.graph.named_parameters(remove_duplicate=False), *network.graph.named_buffers()]
        if not name.startswith("grid_")
    )


def _rename_interface(graph: onnx.GraphProto, network: Network) -> None:
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.name = "network"
    for values, described in ((graph.input, network.inputs), (graph.output, network.outputs)):
        for value, tensor in zip(values, described, strict=True):
            value.doc_string = ""
            del value.metadata_props[:]
            for dimension, size in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
                if isinstance(size, str):
                    dimension.dim_param = size
                else:
                    dimension.dim_value = size


def _share_initializers(graph: onnx.GraphProto) -> None:
    """Keep one of equal constants; scales and zero points repeat all over a quantized graph."""
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    kept: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        for field in ("name", "doc_string"):
            bare.ClearField(field)
        del bare.metadata_props[:]
        key = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
        if key in first:
            renamed[tensor.name] = first[key]
            continue
        first[key] = bare.name = tensor.name
        kept.append(bare)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def short_names(taken: set[str]) -> Iterator[str]:
    """0, 1, … z, 10, …, without those that are taken."""
    number = 0
    while True:
        name, rest = "", number
        while True:
            rest, digit = divmod(rest, len(_DIGITS))
            name = _DIGITS[digit] + name
            if not rest:
                break
        number += 1
        if name not in taken:
            yield name


def _rename_values(graph: onnx.GraphProto, *, parameters: frozenset[str]) -> None:
    """Parameters keep their names, all that lies between gets short ones."""
    interface = {value.name for value in [*graph.input, *graph.output]}
    kept = interface | {tensor.name for tensor in graph.initializer if tensor.name in parameters}
    names = short_names(kept)
    renamed: dict[str, str] = {name: name for name in kept}
    renamed[""] = ""
    for tensor in graph.initializer:
        if tensor.name not in renamed:
            renamed[tensor.name] = next(names)
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                if name not in renamed:
                    renamed[name] = next(names)
                values[i] = renamed[name]


def _drop_defaults(graph: onnx.GraphProto, opset: int) -> None:
    """Leave out attributes that say what goes without saying."""
    for node in graph.node:
        if not onnx.defs.has(node.op_type, opset, node.domain):
            continue
        known = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
        for attribute in list(node.attribute):
            # Empty where there is none.
            default = known[attribute.name].default_value
            if default.type and onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute):
                node.attribute.remove(attribute)


def _rename_nodes(graph: onnx.GraphProto) -> None:
    """A node that uses a layer's parameter is named after the layer, others need no name."""
    stored = {
        node.output[0]: onnx.helper.get_node_attr_value(node, "key").decode()
        for node in graph.node
        if node.domain == DOMAIN and node.op_type == STORED
    }
    names = [*((tensor.name, tensor.name) for tensor in graph.initializer), *stored.items()]
    sources = {value: name for value, name in names if "." in name}
    used: set[str] = set()
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = ""
        source = next((sources[name] for name in node.input if name in sources), None)
        if source is None:
            continue
        if node.op_type == "DequantizeLinear" or (node.op_type == "Transpose" and node.input[0] in stored):
            sources[node.output[0]] = source
            continue
        layer = source.rpartition(".")[0]
        name, number = layer, 1
        while name in used:
            number += 1
            name = f"{layer}/{number}"
        used.add(name)
        node.name = name
