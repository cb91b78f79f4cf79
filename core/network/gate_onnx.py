"""The gate for ONNX files: parsed as a protobuf, then checked node by node before any of it is used."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf publishes no types

from core.errors import ModelpressError

# A protobuf cannot be larger; nodes are a bound on work, far above any network seen.
MAX_BYTES = 2 * 1024**3 - 1
MAX_NODES = 100_000
OLDEST_OPSET = 7
_DOMAINS = ("", "ai.onnx")


def open_onnx(path: Path) -> onnx.ModelProto:
    """The checked model; raises `corrupt_file`, `external_data`, `unsupported_version` or `unsupported_operator`."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelpressError("unsupported_graph", "The file is larger than 2 GiB, which no ONNX file can be.")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelpressError("corrupt_file", f"The file is no valid ONNX protobuf: {error}") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelpressError("corrupt_file", "The ONNX file has no graph, or one without nodes.")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelpressError("corrupt_file", "A name in the ONNX file is no UTF-8 text.")
    _check_versions(model)
    _check_tensors(model.graph)
    _check_nodes(model)
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """All names; the protobuf library gives bytes where one is no UTF-8."""
    yield from (model.producer_name, model.producer_version)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        yield value.name
    for value in model.graph.input:
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_versions(model: onnx.ModelProto) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        stated = versions[0] if versions else "none"
        raise ModelpressError(
            "unsupported_version",
            f"The file states opset {stated}; {OLDEST_OPSET} to {newest} are read.",
            hint="Export it with `opset_version=20`.",
        )


def _check_tensors(graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise ModelpressError("unsupported_graph", "The file stores sparse weights, which are not read.")
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelpressError(
                "external_data",
                f"The bytes of tensor {tensor.name} are in another file.",
                hint="Save it as one file: `onnx.save(model, 'model.onnx', save_as_external_data=False)`.",
                node=tensor.name,
            )
        if any(size < 0 for size in tensor.dims):
            raise ModelpressError("corrupt_file", f"Tensor {tensor.name} has a negative size.", node=tensor.name)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_nodes(model: onnx.ModelProto) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise ModelpressError("unsupported_graph", f"The graph has more than {MAX_NODES} nodes.")
    if model.functions:
        function = model.functions[0]
        raise ModelpressError(
            "unsupported_operator",
            f"The file defines operators of its own ({function.domain}::{function.name}).",
            hint="Inline them: `onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), 'model.onnx')`.",
            node=function.name,
        )
    for node in model.graph.node:
        name = node.name or (node.output[0] if node.output else node.op_type)
        if node.domain not in _DOMAINS:
            raise ModelpressError(
                "unsupported_operator", f"Node {name} is {node.domain}::{node.op_type}, a foreign operator.", node=name
            )
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelpressError(
                "unsupported_operator", f"Node {name} ({node.op_type}) holds a graph of its own.", node=name
            )
