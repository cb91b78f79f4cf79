"""What an ONNX file's graph tells a measurement: its constants, who consumes them, and the tensors of one run."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf publishes no types
from numpy.typing import NDArray

from core.errors import ModelpressError
from core.measure.runtime import Feed, open_session, run_session
from core.network.onnx_outside import root_locations


@dataclass(frozen=True, slots=True)
class TensorCost:
    """Shape and bytes of a tensor as one run produced it."""

    shape: tuple[int, ...]
    nbytes: int


@final
class OnnxGraph:
    """A model's main graph: its constants (initializers and Constant nodes) and the consumers of each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        # Constant nodes are listed with the constants.
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t
        self.consumers: defaultdict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in self.nodes:
            for index, name in enumerate(node.input):
                self.consumers[name].append((node, index))

    @cached_property
    def folded(self) -> dict[str, frozenset[str]]:
        """Values that follow from constants alone, and from which; a runtime computes them once, while it loads."""
        found: dict[str, frozenset[str]] = {}
        for node in self.nodes:
            names = [name for name in node.input if name]
            # A branch may read what is not among the inputs of its If.
            inside = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
            if not inside and all(name in self.constants or name in found for name in names):
                below = frozenset().union(*(found.get(name, frozenset({name})) for name in names))
                found |= dict.fromkeys(node.output, below)
        return found

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """The shapes of what is fed by name; a free size is its name."""
        return {
            entry.name: tuple(
                size.dim_value if size.HasField("dim_value") else size.dim_param
                for size in entry.type.tensor_type.shape.dim
            )
            for entry in self.model.graph.input
            if entry.name not in self.constants
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what is answered."""
        return tuple(entry.name for entry in self.model.graph.output)


def load_graph(path: Path) -> OnnxGraph:
    """The graph of a file, weights in other files left there; raises `corrupt_file`."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelpressError("corrupt_file", f"The file is no ONNX model: {error}") from error
    root_locations(model.graph.initializer, path.parent)
    return OnnxGraph(model)


def trace_tensors(graph: OnnxGraph, feed: Feed) -> dict[str, TensorCost]:
    """Every tensor that one run with `feed` produces, and what it is fed."""
    return {name: TensorCost(tensor.shape, tensor.nbytes) for name, tensor in run_all(graph, feed).items()}


def run_all(graph: OnnxGraph, feed: Feed) -> dict[str, NDArray[Any]]:
    """As `trace_tensors`, with their numbers, by running the graph as it stands with all of them as outputs.

    The runtime's own operators have no shape inference outside it, a run knows them all.
    """
    session = open_session(_expose_all(graph), 1, optimisation="none")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, run_session(session, feed), strict=True)) | dict(feed)


def _expose_all(graph: OnnxGraph) -> bytes:
    """The model with everything that its nodes make as outputs; the weights are not copied more often than needed."""
    outputs, known = graph.model.graph.output, set(graph.outputs)
    count = len(outputs)
    for node in graph.nodes:
        for name in node.output:
            if name and name not in known:
                # A type is not needed: the runtime infers it.
                outputs.add(name=name)
                known.add(name)
    exposed: bytes = graph.model.SerializeToString()
    del outputs[count:]
    return exposed
