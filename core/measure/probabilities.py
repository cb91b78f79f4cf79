"""Whether a file answers with probabilities: some networks end in a softmax or a sigmoid, most give what is beneath."""

from pathlib import Path

import onnx

from core.measure.onnx_graph import OnnxGraph, load_graph
from core.measure.scores import OF_CLASSES, Metric

# What changes the shape of an answer, or rounds it, but not what it says.
_KEEPING_VALUES = frozenset(
    {"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze"}
)


def gives_probabilities(path: Path, metric: Metric) -> bool:
    """Whether the first output is a probability of the kind that the metric judges; raises `corrupt_file`."""
    if metric == "f1":
        return _last_operator(load_graph(path)) == "Sigmoid"
    return metric in OF_CLASSES and _last_operator(load_graph(path)) == "Softmax"


def _last_operator(graph: OnnxGraph) -> str:
    makers: dict[str, onnx.NodeProto] = {name: node for node in graph.nodes for name in node.output}
    node = makers.get(graph.outputs[0])
    while node is not None and node.op_type in _KEEPING_VALUES:
        node = makers.get(node.input[0])
    return "" if node is None else str(node.op_type)
