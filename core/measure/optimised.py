"""The graph that onnxruntime makes of a file while it loads it, with the tensors of one run."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.errors import ModelpressError
from core.measure.onnx_graph import OnnxGraph, TensorCost, load_graph, trace_tensors
from core.measure.runtime import Feed, open_session

OPTIMISED_NAME = "optimised.onnx"


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """A graph and what one run makes of it; `fused` says that it is the runtime's own and not the file's."""

    graph: OnnxGraph
    tensors: dict[str, TensorCost]
    fused: bool


def trace_optimised(model: Path | bytes, feed: Feed) -> TracedGraph:
    """The runtime's graph after its extended optimisations, so that fused operators count as one.

    The layout optimisations are left out, since they depend on the CPU. Where the graph cannot be run it is the file's
    own: optimised graphs inside of branches are written so that the runtime cannot always open them again.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / OPTIMISED_NAME
        open_session(model, 1, optimisation="extended", optimised_to=optimised)
        graph = load_graph(optimised)
        try:
            return TracedGraph(graph, trace_tensors(graph, feed), fused=True)
        except ModelpressError:
            graph = OnnxGraph(onnx.load_from_string(model)) if isinstance(model, bytes) else load_graph(model)
            return TracedGraph(graph, trace_tensors(graph, feed), fused=False)
