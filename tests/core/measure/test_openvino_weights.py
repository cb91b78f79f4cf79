"""Stored weights in OpenVINO: the same numbers, decoded once."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from core.measure.engine import OPENVINO, open_engine
from core.measure.openvino_profile import profile_openvino
from core.network.encodings.onnx_writer import OnnxWriter
from core.network.export_compact import PRODUCER, short_names
from core.network.export_stored import ROUNDS
from tests.core.network.encodings.cases import CASES, sample

# One of each way to write weights: bytes, planes of bits, tables, levels, gaps and bits of masks, factors.
NAMES = (
    "int8",
    "int3",
    "int5",
    "int4 in groups",
    "ternary",
    "codebook of 16",
    "codebook of 100",
    "2 codebooks of 7",
    "log2 in 4 bits",
    "binary",
    "half masked",
    "hardly kept",
    "masked over codebook of 5",
    "low rank of a masked codebook",
)


def write(name: str, path: Path, *, staged: bool = False, start: int = 0) -> torch.Tensor:
    """A convolution with the stored weight; gives the weight."""
    encoding = CASES[name](sample())
    writer = OnnxWriter(short_names({"x", "y"}))
    writer.begin("conv.weight", staged=staged, start=start)
    value = encoding.write(writer)
    nodes = [*writer.nodes, helper.make_node("Conv", ["x", value], ["y"], name="conv")]
    out, channels, *kernel = encoding.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, *kernel])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", out, 1, 1])
    graph = helper.make_graph(nodes, "g", [x], [y], writer.initializers)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, producer_name=PRODUCER, opset_imports=opsets, ir_version=10), path)
    return encoding.decode()


@pytest.mark.parametrize(
    ("name", "staged", "start"),
    [*((name, False, 0) for name in NAMES), ("half masked", True, 0), ("half masked", False, ROUNDS - 1)],
)
def test_stored_weights_are_the_same(name: str, staged: bool, start: int, tmp_path: Path) -> None:
    weight = write(name, tmp_path / "model.onnx", staged=staged, start=start)
    # One sample for each number of a kernel.
    inputs = np.eye(weight[0].numel(), dtype=np.float32).reshape(-1, *weight.shape[1:])
    (found,) = open_engine(OPENVINO, tmp_path / "model.onnx", 1).run({"x": inputs})
    np.testing.assert_allclose(found[:, :, 0, 0].T, weight.flatten(1).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["int3", "masked over codebook of 5"])
def test_they_are_decoded_once_while_the_file_is_loaded(name: str, tmp_path: Path) -> None:
    weight = write(name, tmp_path / "model.onnx")
    # So many samples that every node that runs takes some microseconds.
    feed = {"x": np.ones((256, *weight.shape[1:]), np.float32)}
    shares = profile_openvino(tmp_path / "model.onnx", feed, ("conv",), threads=1).shares
    running = {operator for operator, share in shares.operators.items() if share}
    assert "Convolution" in running
    assert running <= {"Convolution", "Reorder", "Subgraph"}
