"""The gate for ONNX files: parsed as a protobuf, then checked node by node before any of it is used."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf publishes no types

from core.errors import ModelpressError
from core.network.onnx_external import place_external
from core.network.onnx_functions import inline_functions
from core.network.onnx_version import bring_up
from core.network.upload import Files, as_files

# A protobuf cannot be larger; nodes are a bound on work, far above any network seen.
MAX_BYTES = 2 * 1024**3 - 1
MAX_NODES = 100_000
MAX_DEPTH = 16


def open_onnx(source: Path | Files) -> onnx.ModelProto:
    """The checked model; what it defines is inlined, large weights stay in their files (see `onnx_outside`).

    Raises `corrupt_file`, `external_data`, `unsupported_version` or `unsupported_graph`.
    """
    files = as_files(source)
    path = files[find_onnx(files)]
    if path.stat().st_size > MAX_BYTES:
        raise ModelpressError("graph_too_large", "The file is larger than 2 GiB, which no ONNX file can be.")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelpressError("corrupt_file", f"The file is no valid ONNX protobuf: {error}") from error
    return check_onnx(model, files)


def find_onnx(files: Files) -> str:
    """Which of several files is the network: the one named `.onnx`; raises `unknown_format`."""
    named = [name for name in files if name.lower().endswith(".onnx")]
    if len(files) == 1:
        return next(iter(files))
    if len(named) != 1:
        raise ModelpressError(
            "unknown_format",
            f"{len(named)} of these {len(files)} files end in .onnx; one must, the others are its data.",
        )
    return named[0]


def check_onnx(model: onnx.ModelProto, files: Files | None = None) -> onnx.ModelProto:
    """The model as `open_onnx` gives it; `files` are what its tensors may point into."""
    if not model.HasField("graph") or not model.graph.node:
        raise ModelpressError("corrupt_file", "The ONNX file has no graph, or one without nodes.")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelpressError("corrupt_file", "A name in the ONNX file is no UTF-8 text.")
    graphs = list(_graphs(model.graph))
    if sum(len(graph.node) for graph in graphs) > MAX_NODES:
        raise ModelpressError("graph_too_large", f"The graph has more than {MAX_NODES} nodes.")
    for graph in graphs:
        _check_tensors(graph)
    model = inline_functions(model, MAX_NODES)
    graphs = list(_graphs(model.graph))
    others = [tensor for graph in graphs[1:] for tensor in graph.initializer]
    others += [tensor for graph in graphs for tensor in _attribute_tensors(graph)]
    place_external(model.graph.initializer, others, files or {}, MAX_BYTES)
    return bring_up(model)


def _graphs(graph: onnx.GraphProto, depth: int = 0) -> Iterator[onnx.GraphProto]:
    """A graph and those in its nodes."""
    if depth > MAX_DEPTH:
        raise ModelpressError("graph_too_large", f"Graphs are nested more than {MAX_DEPTH} deep.")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner, depth + 1)


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """All names; the protobuf library gives bytes where one is no UTF-8."""
    yield from (model.producer_name, model.producer_version)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.initializer):
            yield value.name
        for value in graph.input:
            yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
        yield from _node_texts(graph.node)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield from _node_texts(function.node)


def _node_texts(nodes: Iterator[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_tensors(graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise ModelpressError("unsupported_graph", "The file stores sparse weights, which are not read.")
    for tensor in (*graph.initializer, *_attribute_tensors(graph)):
        if any(size < 0 for size in tensor.dims):
            raise ModelpressError("corrupt_file", f"Tensor {tensor.name} has a negative size.", node=tensor.name)


def _attribute_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
