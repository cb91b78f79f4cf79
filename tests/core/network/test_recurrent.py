"""Recurrent operators of ONNX: lengths of their own, branches, both forms of GRU, and free numbers of steps."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from core.network.export import export_onnx, export_pt2
from core.network.inspect import inspect, read

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(operator: str, directions: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(0)
    rows = 4 * GATES[operator]
    return {
        "w": torch.randn(directions, rows, 3),
        "r": torch.randn(directions, rows, 4),
        "b": torch.randn(directions, 2 * rows),
    }


def text(operator: str, attributes: str = "", *, lengths: str = "", steps: str = "t", results: str = "y, h") -> str:
    lens = f", int32[n] {lengths}" if lengths else ""
    return f"""g (float[{steps},n,3] x{lens}) => (float[a,b,c,d] y, float[e,f,g] h) {{
        {results} = {operator}<hidden_size = 4{attributes}>(x, w, r, b, {lengths}) }}"""


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_sequences_of_different_lengths_agree_with_onnxruntime(operator: str, direction: str, write_onnx) -> None:
    attributes = f', direction = "{direction}"' + (", linear_before_reset = 1" if operator == "GRU" else "")
    path = write_onnx(text(operator, attributes, lengths="lens"), **weights(operator, 1 + (direction[0] == "b")))
    network = read(path)
    assert (network.batch, network.inputs[0].shape) == ("dynamic", ("t", "batch", 3))
    x, lens = torch.randn(5, 3, 3), torch.tensor([5, 2, 3], dtype=torch.int32)
    wanted = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy(), "lens": lens.numpy()})
    with torch.no_grad():
        for ours, theirs in zip(network.graph(x, lens), wanted, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_the_last_memory_of_sequences_of_different_lengths_is_refused_by_name(write_onnx) -> None:
    description = inspect(write_onnx(text("LSTM", lengths="lens", results="y, h, c"), **weights("LSTM")))
    assert description.mode == "onnx_only"
    assert "Y_c" in str(description.why)


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_a_free_number_of_steps_stays_free_in_what_is_written(operator: str, write_onnx, tmp_path: Path) -> None:
    attributes = ", linear_before_reset = 1" if operator == "GRU" else ""
    network = read(write_onnx(text(operator, attributes), **weights(operator)))
    export_pt2(network, tmp_path / "out.pt2")
    export_onnx(network, tmp_path / "out.onnx")
    x = torch.randn(7, 3, 3)
    written = onnxruntime.InferenceSession(tmp_path / "out.onnx").run(None, {"x": x.numpy()})
    reloaded = torch.export.load(tmp_path / "out.pt2").module()(x)
    with torch.no_grad():
        for ours, theirs, others in zip(network.graph(x), written, reloaded, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
            torch.testing.assert_close(ours, others)


def test_a_gru_that_resets_first_needs_a_fixed_number_of_steps(write_onnx) -> None:
    assert inspect(write_onnx(text("GRU", steps="5"), **weights("GRU"))).mode == "network"
    description = inspect(write_onnx(text("GRU"), **weights("GRU")))
    assert description.mode == "onnx_only"
    assert "linear_before_reset = 1" in str(description.why)


def test_weights_that_a_branch_computes_become_those_of_a_layer(write_onnx) -> None:
    branch = """g (float[t,n,3] x) => (float[a,b,c,d] y) <int64[1] zero = {0}, int64 at = {2}, int64 three = {3}> {
        sizes = Shape(x) features = Gather(sizes, at) right = Equal(features, three)
        y = If(right) <then_branch = t () => (float[a,b,c,d] o) {
                w3 = Unsqueeze(w2, zero) r3 = Unsqueeze(r2, zero) b3 = Unsqueeze(b2, zero)
                o = LSTM<hidden_size = 4>(x, w3, r3, b3) },
            else_branch = e () => (float[a,b,c,d] p) { p = LSTM<hidden_size = 4>(x, x, x) }> }"""
    stored = {f"{name}2": value[0] for name, value in weights("LSTM").items()}
    description = inspect(write_onnx(branch, **stored))
    assert (description.mode, description.why) == ("network", None)
    assert [layer.kind for layer in description.layers] == ["lstm"]


def test_results_of_a_branch_that_are_constant_are_taken_from_the_branch_that_runs(write_onnx) -> None:
    branch = """g (float[n,3] x, float[n,k] z) => (float[n,3] y) <int64 at = {1}, int64 three = {3}> {
        sizes = Shape(x) features = Gather(sizes, at) right = Equal(features, three)
        c = If(right) <then_branch = t () => (float o) { o = Constant<value = float {2.0}>() },
            else_branch = e () => (float p) { p = Constant<value = float {5.0}>() }>
        m = Mul(x, c) s = ReduceSum<keepdims = 1>(z, one) y = Add(m, s) }"""
    description = inspect(write_onnx(branch, one=torch.tensor([1])))
    assert (description.mode, description.why) == ("network", None)
