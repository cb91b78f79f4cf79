"""What users rely on in a file is kept from upload to artifact: metadata, names with colons, the order of tensors."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from core.network.encodings import AffineInteger, symmetric_grid
from core.network.export import export_onnx
from core.network.inspect import inspect, read
from core.network.network import Network

METADATA = {"classes": "cat,dog: both", "stride": "32", "names": '{"0": "Katze"}'}
INPUTS, OUTPUTS = ("z:0", "a:0"), ("score:1", "box:0")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As TensorFlow's converter names things; neither inputs nor outputs are in the order of the alphabet."""
    weights = {"w/read:0": (4, 6), "v/read:0": (3, 6), "b:0": (6,)}
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["z:0", "w/read:0"], ["p:0"]),
            helper.make_node("MatMul", ["a:0", "v/read:0"], ["q:0"]),
            helper.make_node("Add", ["p:0", "b:0"], ["r:0"]),
            helper.make_node("Add", ["r:0", "q:0"], ["box:0"]),
            helper.make_node("Softmax", ["box:0"], ["score:1"]),
        ],
        "g",
        [value("z:0", TensorProto.FLOAT, ["unk__1", 4]), value("a:0", TensorProto.FLOAT, ["unk__1", 3])],
        [value("score:1", TensorProto.FLOAT, ["unk__1", 6]), value("box:0", TensorProto.FLOAT, ["unk__1", 6])],
        [
            onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tf2onnx")
    helper.set_model_props(model, METADATA | {"pkg.torch.export.graph_signature": "/home/user/net.py"})
    path = tmp_path / "upload.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def quantized(network: Network) -> Network:
    for path, _ in list(network.graph.named_parameters()):
        if path.endswith("weight"):
            weight = network.graph.get_parameter(path)
            encoding = AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)
            weight.data = encoding.decode()
            network.encodings[path] = encoding
    assert len(network.encodings) == 2
    return network


@pytest.mark.parametrize("small", [False, True])
def test_names_order_and_metadata_reach_the_artifact(file: Path, tmp_path: Path, small: bool) -> None:
    described = inspect(file)
    assert described.metadata == METADATA
    assert described.producer == "tf2onnx"
    assert tuple(tensor.name for tensor in described.inputs) == INPUTS
    assert tuple(tensor.name for tensor in described.outputs) == OUTPUTS
    network = quantized(read(file)) if small else read(file)
    artifact = tmp_path / "model.onnx"
    export_onnx(network, artifact)
    model = onnx.load(artifact)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert tuple(value.name for value in model.graph.input) == INPUTS
    assert tuple(value.name for value in model.graph.output) == OUTPUTS
    before, after = (onnxruntime.InferenceSession(path) for path in (file, artifact))
    rng = np.random.default_rng(1)
    feed = {name: rng.normal(size=(5, width)).astype(np.float32) for name, width in (("z:0", 4), ("a:0", 3))}
    # The score is a softmax of the box.
    rounding = (0.02, 0.05) if small else (1e-5, 1e-5)
    for wanted, found, most in zip(before.run(None, feed), after.run(None, feed), rounding, strict=True):
        np.testing.assert_allclose(found, wanted, atol=most)
    if not small:
        again = inspect(artifact)
        assert (again.metadata, again.inputs, again.outputs) == (
            described.metadata,
            described.inputs,
            described.outputs,
        )
