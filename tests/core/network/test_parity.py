"""Parity: a network that computes something else than its file is not let through."""

import onnx
import pytest
import torch

from core.errors import ModelpressError
from core.network.gate_onnx import open_onnx
from core.network.inspect import inspect, read
from core.network.onnx_operators import OPERATORS
from core.network.onnx_operators.call import Operator
from core.network.parity import check_onnx_parity, check_pt2_parity
from core.network.read_onnx import read_onnx
from core.network.read_pt2 import read_pt2

TEXT = "g (float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, fc__weight) [act] r = Relu(h) y = Neg(r) }"
# Opposite rows: of each input one is above zero and one below, so that no sample hides behind the Relu.
ALIVE = torch.tensor([[1.0, 0.5, -0.5, 0.25], [-1.0, -0.5, 0.5, -0.25], [0.5, 1.0, 1.0, -1.0]])


def test_a_changed_weight_is_seen(write_onnx) -> None:
    path = write_onnx(TEXT, fc__weight=ALIVE)
    network, model = read(path), open_onnx(path)
    flat = read_onnx(model)
    assert check_onnx_parity(network, flat, model, seed=0).reference.startswith("onnxruntime")
    with torch.no_grad():
        network.graph.get_submodule("fc").weight[:2] *= 1.01
    with pytest.raises(ModelpressError) as raised:
        check_onnx_parity(network, flat, model, seed=0)
    assert raised.value.code == "parity_lost"


def test_the_first_node_that_differs_is_named(write_onnx, monkeypatch) -> None:
    path = write_onnx(TEXT, fc__weight=ALIVE)
    wrong = Operator(lambda _call, x: torch.nn.functional.leaky_relu(x))
    monkeypatch.setitem(OPERATORS, "Relu", wrong)
    description = inspect(path)
    assert (description.mode, description.why_node) == ("onnx_only", "act")
    assert "differs from the file" in str(description.why)


def test_a_pt2_network_is_compared_with_its_own_program(residual, save_pt2) -> None:
    module, example = residual
    path = save_pt2(module, example)
    network = read(path)
    with torch.no_grad():
        network.graph.get_submodule("fc").bias += 1.0
    with pytest.raises(ModelpressError) as raised:
        check_pt2_parity(network, read_pt2(path), seed=0)
    assert raised.value.code == "parity_lost"


def test_weights_that_are_not_finite_are_refused(write_onnx) -> None:
    with pytest.raises(ModelpressError) as raised:
        inspect(write_onnx(TEXT, fc__weight=torch.full((3, 4), float("nan"))))
    assert raised.value.code == "non_finite"


def test_values_that_overflow_far_outside_are_no_loss(write_onnx) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = Exp(x) y = Mul(a, a) }"
    assert inspect(write_onnx(text)).parity.samples == 12


# A sigmoid that is almost 0 on ordinary inputs, where onnxruntime's is off by 1e-7, and reaches 1 far outside.
SIGMOID = """g (float[n,4] x) => (float[n,3] y) <float low = {-11.0}> {
    h = MatMul(x, w) s = Add(h, low) [last] y = Sigmoid(s) }"""


def test_rounding_of_the_runtime_is_no_loss(write_onnx) -> None:
    parity = inspect(write_onnx(SIGMOID, w=ALIVE.T)).parity
    assert parity is not None
    assert parity.max_abs_difference < 1e-6


def test_a_wrong_constant_behind_a_sigmoid_that_is_almost_zero_is_seen(write_onnx, monkeypatch) -> None:
    monkeypatch.setitem(OPERATORS, "Sigmoid", Operator(lambda _call, x: torch.sigmoid(x * 1.01)))
    description = inspect(write_onnx(SIGMOID, w=ALIVE.T))
    assert (description.mode, description.why_node) == ("onnx_only", "last")


def test_a_file_that_the_runtime_refuses_is_refused(write_onnx) -> None:
    path = write_onnx("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelpressError) as raised:
        inspect(path)
    assert raised.value.code == "unsupported_graph"
