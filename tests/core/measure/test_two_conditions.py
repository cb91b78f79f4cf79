"""The two conditions, on graphs and rates whose figures can be worked out by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from core.measure.engine import ONNXRUNTIME, OPENVINO
from core.measure.kernels import Kernel, add_unseen, find_kernels, integer_share, rounds_activations
from core.measure.onnx_graph import load_graph
from core.measure.openvino_profile import profile_openvino
from core.measure.optimised import trace_optimised
from core.measure.profile import TimeShares, share_time
from core.measure.roofline import Peak, Roofline, measure_roofline
from core.measure.two_conditions import FloatProducts, Products, list_float_products
from core.verdict import PeakRatio, Speedup

FLOAT = TensorProto.FLOAT


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.fixture
def mixed(onnx_file):
    """A convolution in integers (4 of 3×3 on 8×8), a product of two activations, and a Gemm in floats."""
    constants = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "conv.weight": np.ones((4, 3, 3, 3), np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "flat": np.array([-1, 4, 64]),
        "wide": np.array([-1, 256]),
        "fc.weight": np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32),
        "fc.bias": np.zeros(5, np.float32),
    }
    grid = ["s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *grid], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", *grid], ["xd"]),
        helper.make_node("DequantizeLinear", ["conv.weight", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["xd", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("QuantizeLinear", ["c", *grid], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", *grid], ["cd"]),
        helper.make_node("Reshape", ["cd", "flat"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["a"], ["p"]),
        helper.make_node("MatMul", ["p", "t"], ["m"], name="att"),
        helper.make_node("MatMul", ["m", "a"], ["n"], name="att2"),
        helper.make_node("Reshape", ["n", "wide"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc"),
    ]
    return onnx_file("m.onnx", nodes, {"x": (FLOAT, ["batch", 3, 8, 8])}, {"y": (FLOAT, ["batch", 5])}, constants)


CONV, PRODUCTS, GEMM = 64 * 4 * 27, 2 * 4 * 64 * 4, 256 * 5


def test_products_are_told_apart_by_what_computes_them(mixed):
    kernels = find_kernels(trace_optimised(mixed, {"x": zeros(2, 3, 8, 8)}))
    found = {(kernel.integer, kernel.weighted): 0 for kernel in kernels}
    for kernel in kernels:
        found[kernel.integer, kernel.weighted] += kernel.macs
    assert found == {(True, True): 2 * CONV, (False, False): 2 * PRODUCTS, (False, True): 2 * GEMM}
    assert integer_share(kernels) == pytest.approx(CONV / (CONV + PRODUCTS + GEMM))
    (conv,) = (kernel for kernel in kernels if kernel.integer)
    assert (conv.rows, conv.taps, conv.pixels, conv.workspace_bytes) == (2 * 64, 9, 64, 8 * 9 * 64)
    (gemm,) = (kernel for kernel in kernels if kernel.weighted and not kernel.integer)
    assert (gemm.rows, gemm.workspace_bytes) == (2, 0)


def test_what_stays_float_has_a_reason(mixed):
    kernels = find_kernels(trace_optimised(mixed, {"x": zeros(1, 3, 8, 8)}))
    total = CONV + PRODUCTS + GEMM
    attention = FloatProducts("activations", (), PRODUCTS / total)
    reasons = {
        "float32": "float_weight",
        "50.0 % of float16": "float_weight",
        "rank 3": "float_weight",
        "int4 in groups": "no_kernel",
        "codebook of 16": "no_kernel",
    }
    for encoding, why in reasons.items():
        found = list_float_products(kernels, {"conv": "int8", "fc": encoding})
        assert found == (attention, FloatProducts(why, ("fc",), GEMM / total))


def test_only_rounded_activations_ask_for_a_roofline(mixed, linear_file, onnx_file):
    assert rounds_activations(load_graph(mixed))
    assert not rounds_activations(load_graph(linear_file("f.onnx", np.eye(3))))
    # Weights alone, rounded in the file itself, are folded while it loads.
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    constants = {"w": np.eye(3, dtype=np.float32), "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    path = onnx_file("w.onnx", nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 3])}, constants)
    assert not rounds_activations(load_graph(path))


def peak(rate, ratio):
    return Peak(rate, PeakRatio(ratio=ratio, low=ratio, high=ratio))


ROOFLINE = Roofline(gemm=peak(100.0, 2.0), gemv=peak(10.0, 4.0))


def kernel(macs, rows, *, integer=True, weighted=True):
    return Kernel(("k",), macs, rows, integer=integer, weighted=weighted)


def test_the_ceiling_is_that_of_the_products_at_each_batch_size():
    # Traced at batch 8: the first has one row a sample, the second a hundred.
    products = Products((kernel(800, 8), kernel(8000, 800)), 8, ROOFLINE)
    speedups = [Speedup(batch=n, ratio=2.0, low=2, high=2, significant=True) for n in (1, 32)]
    weighed = products.weigh(speedups, TimeShares({}, 0.1, 0.75), 20.0)
    one, many = weighed.limits
    # At its peak one sample takes 2.5 s of single rows and 5 s of matrices; these kernels took 15 s.
    assert (weighed.integer_time, weighed.integer_rate) == (0.75, pytest.approx(0.5))
    # At one sample: 80 s of single rows become 20 s, 80 s of matrices 40 s.
    assert one.ceiling == one.attainable == pytest.approx(160 / 60)
    assert many.ceiling == pytest.approx(2)
    assert (one.reached, many.reached) == (pytest.approx(2.0 / (160 / 60)), pytest.approx(1.0))


def test_products_in_floats_lower_what_can_be_attained_and_not_the_ceiling():
    products = Products((kernel(500, 100), kernel(500, 100, integer=False)), 1, ROOFLINE)
    weighed = products.weigh([Speedup(batch=1, ratio=1.2, low=1, high=2, significant=True)], TimeShares({}, 0.25), 1.0)
    assert (weighed.integer_macs, weighed.conversion_share) == (0.5, 0.25)
    (limit,) = weighed.limits
    assert (limit.ceiling, limit.attainable) == (pytest.approx(2), pytest.approx(10 / 7.5))


def test_products_that_a_runtime_hides_count_as_floats():
    seen, hidden = kernel(300, 10), kernel(100, 50, integer=False)
    every = add_unseen((seen,), (seen, hidden))
    assert integer_share(every) == pytest.approx(0.75)
    assert add_unseen((seen, hidden), (seen, hidden)) == (seen, hidden)


@pytest.mark.parametrize("runtime", [ONNXRUNTIME, OPENVINO])
def test_peaks_are_measured_in_the_runtime(runtime):
    found = measure_roofline(runtime, 1)
    for each in (found.gemm, found.gemv):
        assert each.float_rate > 1e8
        assert 0 < each.ratio.low <= each.ratio.ratio <= each.ratio.high
        assert each.integer_rate == pytest.approx(each.float_rate * each.ratio.ratio)


def test_both_profiles_share_the_time_out_in_one_way(mixed):
    feed = {"x": zeros(2, 3, 8, 8)}
    here = share_time(mixed, feed, ["conv", "fc"], threads=1)
    there = profile_openvino(mixed, feed, ["conv", "fc"], threads=1)
    for shares in (here, there.shares):
        assert shares.layers["conv"] > 0
        assert shares.integer > 0
        assert shares.conversions + shares.integer + sum(shares.operators.values()) == pytest.approx(1)
    assert here.operators["Softmax"] > 0
    convolution = next(kernel for kernel in there.kernels if kernel.integer)
    assert (convolution.macs, convolution.rows) == (2 * CONV, 128)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_costs_the_same_in_both_runtimes(onnx_file, groups):
    weight = np.ones((6, 10 // groups, 3, 3), np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=groups)
    shapes = {"x": (TensorProto.FLOAT, ["n", 6, 5, 5])}, {"y": (TensorProto.FLOAT, ["n", 10, 11, 11])}
    path, feed = onnx_file("t.onnx", [node], *shapes, {"w": weight}), {"x": np.ones((2, 6, 5, 5), np.float32)}
    (here,) = find_kernels(trace_optimised(path, feed))
    (there,) = profile_openvino(path, feed, (), threads=1).kernels
    assert here.macs == there.macs == 2 * 25 * weight.size
