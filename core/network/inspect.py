"""Reading a model file: gate, reader, lift, batch; and inspection, which adds parity and the description."""

from pathlib import Path

import onnx

from core.description import TensorDescription
from core.network.flat import FlatProgram, run_shapes
from core.network.lift import lift
from core.network.network import Network
from core.network.normalise import normalise
from core.network.read_onnx import read_onnx


def read(path: Path, seed: int = 0) -> Network:
    """The canonical network of a model file; raises `ModelpressError` where the file cannot be read."""
    flat = read_onnx(onnx.load(path, load_external_data=False))
    return build(flat)


def build(flat: FlatProgram) -> Network:
    """The canonical network of a flat program."""
    run_shapes(flat.graph, flat.example)
    normalise(flat.graph)
    graph = lift(flat.graph)
    outputs = []
    for node, name in zip(next(iter(reversed(flat.graph.graph.nodes))).args[0], flat.outputs, strict=True):
        value = node.meta["value"]
        outputs.append(
            TensorDescription(
                name=name, dtype=str(value.dtype).removeprefix("torch."), shape=("batch", *value.shape[1:])
            )
        )
    inputs = tuple(v.model_copy(update={"shape": ("batch", *v.shape[1:])}) for v in flat.inputs)
    return Network(graph=graph, inputs=inputs, outputs=tuple(outputs), dtype=flat.dtype, metadata=flat.metadata)
