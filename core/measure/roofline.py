"""How much faster this CPU multiplies 8-bit integers than floats, measured in the target runtime."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from core.measure.engine import Call, RuntimeName, bind_file
from core.measure.intervals import Matrix
from core.measure.latency import time_calls
from core.verdict import PeakRatio

# Rows, terms and columns. The first is limited by arithmetic, the second by how fast weights come from the caches.
GEMM = (512, 512, 512)
GEMV = (1, 1024, 1024)
RUNS, BLOCKS = 7, 3
OPSET = 20
# Half the range, so that no kernel saturates.
LARGEST_CODE = 63
NS_PER_S = 1e9

Maker = Callable[[], Call]


@dataclass(frozen=True, slots=True)
class Peak:
    """Multiply-accumulates a second of float32, and how much faster those of u8 × s8 are."""

    float_rate: float
    ratio: PeakRatio

    @property
    def integer_rate(self) -> float:
        """Multiply-accumulates of integers a second."""
        return self.float_rate * self.ratio.ratio


@dataclass(frozen=True, slots=True)
class Roofline:
    """Peaks of a product of two matrices and of a matrix by a vector."""

    gemm: Peak
    gemv: Peak


def measure_roofline(runtime: RuntimeName, threads: int) -> Roofline:
    """Time float and integer products, interleaved, in about a second; the caller holds the measuring lock."""
    with tempfile.TemporaryDirectory() as folder:
        makers = [
            _maker(Path(folder), shape, runtime, threads, integer=integer)
            for shape in (GEMM, GEMV)
            for integer in (False, True)
        ]
        series = time_calls(makers, RUNS, blocks=BLOCKS)
    runs = [one.runs for one in series]
    return Roofline(_peak(GEMM, runs[0], runs[1]), _peak(GEMV, runs[2], runs[3]))


def _peak(shape: tuple[int, int, int], single: Matrix, integer: Matrix) -> Peak:
    """From nanoseconds, (blocks, runs): a peak is the best that a block has seen, whatever else the machine does."""
    best, fastest = single.min(axis=1), integer.min(axis=1)
    ratios = best / fastest
    rate = float(np.prod(shape)) / float(best.min()) * NS_PER_S
    spread = PeakRatio(ratio=float(np.median(ratios)), low=float(ratios.min()), high=float(ratios.max()))
    return Peak(rate, spread)


def _maker(folder: Path, shape: tuple[int, int, int], runtime: RuntimeName, threads: int, *, integer: bool) -> Maker:
    path = folder / f"{'x'.join(map(str, shape))}-{integer}.onnx"
    model, kind = (_integer_product(*shape), np.uint8) if integer else (_float_product(*shape), np.float32)
    path.write_bytes(model.SerializeToString())
    feed: dict[str, NDArray[Any]] = {"x": np.ones(shape[:2], kind)}
    return lambda: bind_file(runtime, path, feed, threads)


def _float_product(rows: int, terms: int, columns: int) -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(terms, columns)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _model(nodes, TensorProto.FLOAT, (rows, terms, columns), {"w": weight})


def _integer_product(rows: int, terms: int, columns: int) -> onnx.ModelProto:
    """u8 × s8 → u8, in the form that every runtime makes one integer kernel of."""
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "w": rng.integers(-LARGEST_CODE, LARGEST_CODE + 1, size=(terms, columns)).astype(np.int8),
        "weight_scale": np.full(columns, 0.01, np.float32),
        "weight_zero": np.zeros(columns, np.int8),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(128, np.uint8),
        "out_scale": np.array(1.0, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "weight_scale", "weight_zero"], ["b"], axis=1),
        helper.make_node("MatMul", ["a", "b"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "out_scale", "zero"], ["y"]),
    ]
    return _model(nodes, TensorProto.UINT8, (rows, terms, columns), constants)


def _model(
    nodes: list[onnx.NodeProto], kind: int, shape: tuple[int, int, int], constants: dict[str, NDArray[Any]]
) -> onnx.ModelProto:
    rows, terms, columns = shape
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, terms])],
        [helper.make_tensor_value_info("y", kind, [rows, columns])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
