"""Small ONNX files, written by hand so that every figure of theirs is known."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


def write_onnx(path: Path, nodes, inputs, outputs, constants) -> Path:
    """A model of `nodes`; inputs and outputs are name → (type, shape), constants name → array."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, *rest) for name, rest in inputs.items()],
        [helper.make_tensor_value_info(name, *rest) for name, rest in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def write_linear(path: Path, weight: np.ndarray, bias: np.ndarray | None = None, *, batch="batch") -> Path:
    """`fc`: x (batch, in) → y (batch, out) with weight (in, out)."""
    weight = weight.astype(np.float32)
    bias = np.zeros(weight.shape[1], np.float32) if bias is None else bias.astype(np.float32)
    return write_onnx(
        path,
        [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], name="fc")],
        {"x": (TensorProto.FLOAT, [batch, weight.shape[0]])},
        {"y": (TensorProto.FLOAT, [batch, weight.shape[1]])},
        {"fc.weight": weight, "fc.bias": bias},
    )


def write_int8_linear(path: Path, weight: np.ndarray) -> Path:
    """The same layer in 8 bits, as QuantizeLinear and DequantizeLinear around a Gemm; x is expected in ±4."""
    scales = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-8).astype(np.float32)
    codes = np.round(weight / scales).astype(np.int8)
    scale, zero = np.float32(8 / 255), np.uint8(128)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["fc.weight", "ws", "wz"], ["w"], axis=1),
        helper.make_node("DequantizeLinear", ["fc.bias", "bs", "bz"], ["b"], axis=0),
        helper.make_node("Gemm", ["d", "w", "b"], ["y"], name="fc"),
    ]
    constants = {
        "s": np.array(scale),
        "z": np.array(zero),
        "fc.weight": codes,
        "ws": scales,
        "wz": np.zeros(len(scales), np.int8),
        "fc.bias": np.zeros(len(scales), np.int32),
        "bs": (scale * scales).astype(np.float32),
        "bz": np.zeros(len(scales), np.int32),
    }
    return write_onnx(
        path,
        nodes,
        {"x": (TensorProto.FLOAT, ["batch", weight.shape[0]])},
        {"y": (TensorProto.FLOAT, ["batch", weight.shape[1]])},
        constants,
    )


@pytest.fixture
def onnx_file(tmp_path):
    """`onnx_file(name, nodes, inputs, outputs, constants)` writes a model and gives its path."""
    return lambda name, *parts: write_onnx(tmp_path / name, *parts)


@pytest.fixture
def linear_file(tmp_path):
    return lambda name, weight, bias=None, **more: write_linear(tmp_path / name, weight, bias, **more)


@pytest.fixture
def int8_linear_file(tmp_path):
    return lambda name, weight: write_int8_linear(tmp_path / name, weight)
