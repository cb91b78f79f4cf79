"""ONNX files that are no network here, and those whose weights are in other files."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from core.errors import ModelpressError
from core.network.gate_onnx import open_onnx
from core.network.inspect import inspect
from core.specs.linear import LinearQuantization

WEIGHT = torch.arange(12.0).reshape(4, 3).numpy()


def test_a_file_with_an_operator_outside_the_list_is_described_as_it_is(write_onnx) -> None:
    text = "g (float[n,4] x) => (int64[a,b] y) { h = MatMul(x, fc__weight) [count] y = NonZero(h) }"
    description = inspect(write_onnx(text, fc__weight=torch.randn(4, 3)))
    assert (description.mode, description.why_node, description.parity) == ("onnx_only", "count", None)
    assert "NonZero" in str(description.why)
    assert (description.parameters, description.macs) == (12, 12)
    assert [(layer.kind, layer.weight_shape) for layer in description.layers] == [("linear", (4, 3))]
    capability = LinearQuantization().requires(description)
    assert not capability.ok
    assert "NonZero" in str(capability.why)


def test_a_condition_on_the_data_is_control_flow(write_onnx) -> None:
    text = """g (float[n,4] x) => (float[n,4] y) <float z = {0.}> {
        s = ReduceSum<keepdims = 0>(x) c = Greater(s, z)
        [choice] y = If(c) <then_branch = t () => (float[n,4] o) { o = Neg(x) },
                            else_branch = e () => (float[n,4] o) { o = Abs(x) }> }"""
    description = inspect(write_onnx(text))
    assert (description.mode, description.why_node) == ("onnx_only", "choice")


def test_a_quantized_file_stays_as_it_is(write_onnx) -> None:
    text = """g (float[n,4] x) => (float[n,4] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    description = inspect(write_onnx(text))
    assert description.mode == "onnx_only"
    assert "already quantized" in str(description.why)


def test_what_the_runtime_cannot_run_either_is_refused(write_onnx) -> None:
    with pytest.raises(ModelpressError) as raised:
        inspect(write_onnx("g (float[n,4] x) => (float[n,4] y) { y = Wonder(x) }"))
    assert raised.value.code == "unsupported_operator"


def test_a_network_that_does_not_take_every_free_size_is_read_at_one_it_takes(write_onnx) -> None:
    text = """g (float[n,1,h] x) => (float[n,1,a] y) { y = AveragePool<kernel_shape = [30]>(x) }"""
    description = inspect(write_onnx(text))
    assert description.mode == "network"


def apart(folder: Path, location: str, *, length: int | None = None) -> Path:
    """A model whose weight is in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="4")
    tensor.external_data.add(key="length", value=str(length or WEIGHT.nbytes))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "sha1"
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_another_file_are_taken_in(tmp_path: Path) -> None:
    data = tmp_path / "sha2"
    data.write_bytes(b"\0" * 4 + WEIGHT.tobytes())
    files = {"net.onnx": apart(tmp_path, "weights/net.bin"), "net.bin": data}
    model = open_onnx(files)
    assert (numpy_helper.to_array(model.graph.initializer[0]) == WEIGHT).all()
    assert inspect(files).parameters == 12


@pytest.mark.parametrize("location", ["../net.bin", "/etc/passwd", "a/../../net.bin", "a\\net.bin", "", "other.bin"])
def test_a_location_that_is_no_file_beside_the_model_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "net.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ModelpressError) as raised:
        inspect({"net.onnx": apart(tmp_path, location), "net.bin": tmp_path / "net.bin"})
    assert (raised.value.code, raised.value.node) == ("external_data", "w")


@pytest.mark.parametrize("length", [44, 48])
def test_data_that_does_not_fit_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "net.bin").write_bytes(b"\0" * 50)
    with pytest.raises(ModelpressError) as raised:
        inspect({"net.onnx": apart(tmp_path, "net.bin", length=length), "net.bin": tmp_path / "net.bin"})
    assert raised.value.code == "external_data"


def test_an_old_opset_is_brought_up(write_onnx) -> None:
    path = write_onnx("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", opset=6)
    model = open_onnx(path)
    assert onnx.checker.check_model(model) is None
    assert inspect(path).opset == 8


def test_an_old_opset_with_a_free_batch_is_brought_up(write_onnx) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { s = Add<axis = 1, broadcast = 1>(x, bias) y = Relu(s) }"
    path = write_onnx(text, opset=6, bias=torch.randn(4))
    description = inspect(path)
    # Of the numbers that the converter was given nothing is left.
    assert not open_onnx(path).graph.value_info
    assert (description.mode, description.batch, description.why) == ("network", "dynamic", None)
    assert description.inputs[0].shape == description.outputs[0].shape == ("batch", 4)
