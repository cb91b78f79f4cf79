"""Size, costs and planned memory of files whose figures can be worked out by hand."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from core.errors import ModelpressError
from core.measure.costs import Costs, count_costs
from core.measure.latency import compare_latency
from core.measure.memory import planned_peak_bytes, probe_memory
from core.measure.size import itemise_bytes, measure_size

FLOAT = TensorProto.FLOAT


def zeros(*shape):
    return np.zeros(shape, np.float32)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture
def residual(onnx_file):
    """Conv 3→8 (3×3, padded) with ReLU, Conv 8→8 in 2 groups, added to the first; then the mean of every channel."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a"], pads=[1, 1, 1, 1], name="a"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["b"], pads=[1, 1, 1, 1], group=2, name="b"),
        helper.make_node("Add", ["b", "r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["y"]),
    ]
    constants = {"a.weight": ones(8, 3, 3, 3), "a.bias": ones(8), "b.weight": ones(8, 4, 3, 3)}
    inputs, outputs = {"x": (FLOAT, ["batch", 3, 10, 10])}, {"y": (FLOAT, ["batch", 8, 1, 1])}
    return onnx_file("residual.onnx", nodes, inputs, outputs, constants)


def test_macs_and_parameters_of_convolutions(residual):
    costs = count_costs(residual, {"x": zeros(1, 3, 10, 10)})
    assert costs.parameters == 8 * 27 + 8 + 8 * 36
    assert costs.macs == 100 * 8 * 27 + 100 * 8 * 36
    assert count_costs(residual, {"x": zeros(4, 3, 10, 10)}) == costs


def test_samples_are_counted_along_the_axis_that_is_called_batch(onnx_file):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs, outputs = {"x": (FLOAT, ["steps", "batch", 4])}, {"y": (FLOAT, ["steps", "batch", 3])}
    path = onnx_file("steps.onnx", nodes, inputs, outputs, {"w": ones(4, 3)})
    assert [count_costs(path, {"x": zeros(6, n, 4)}).macs for n in (1, 2)] == [6 * 4 * 3] * 2
    assert compare_latency(path, path, {"x": zeros(6, 2, 4)}, threads=1, runs=5).speedup.batch == 2


def test_what_follows_a_branch_that_reads_data_is_no_constant(onnx_file):
    branches = {
        name: helper.make_graph([helper.make_node(kind, ["x"], ["o"])], name, [], [_value("o")])
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [helper.make_node("If", ["yes"], ["h"], **branches), helper.make_node("MatMul", ["h", "w"], ["y"])]
    inputs, outputs = {"x": (FLOAT, ["batch", 4])}, {"y": (FLOAT, ["batch", 3])}
    path = onnx_file("branch.onnx", nodes, inputs, outputs, {"w": ones(4, 3), "yes": np.array([True])})
    assert count_costs(path, {"x": zeros(2, 4)}) == Costs(parameters=12, macs=12)


def _value(name):
    return helper.make_tensor_value_info(name, FLOAT, None)


def test_planned_memory_is_the_peak_of_live_tensors(residual):
    # Convolution and ReLU fuse. While r and b are added, r, b and s are alive, 8×10×10 floats each.
    assert planned_peak_bytes(residual, {"x": zeros(1, 3, 10, 10)}) == 3 * 8 * 100 * 4
    assert planned_peak_bytes(residual, {"x": zeros(5, 3, 10, 10)}) == 5 * 3 * 8 * 100 * 4


def test_planned_memory_frees_what_is_read_for_the_last_time(onnx_file):
    names = ["x", "a", "b", "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(3)]
    constants = {"w0": ones(4, 100), "w1": ones(100, 10), "w2": ones(10, 30)}
    path = onnx_file("chain.onnx", nodes, {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 30])}, constants)
    assert planned_peak_bytes(path, {"x": zeros(1, 4)}) == (100 + 10) * 4


def test_products_of_other_operators(onnx_file):
    nodes = [
        helper.make_node("ConvTranspose", ["x", "t"], ["up"], strides=[2, 2]),
        helper.make_node("Flatten", ["up"], ["flat"]),
        helper.make_node("Gemm", ["flat", "g"], ["hidden"], transB=1),
        helper.make_node("Transpose", ["hidden"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "turned"], ["y"]),
    ]
    constants = {"t": ones(2, 3, 2, 2), "g": ones(7, 48)}
    path = onnx_file("o.onnx", nodes, {"x": (FLOAT, ["n", 2, 2, 2])}, {"y": (FLOAT, ["n", "n"])}, constants)
    assert count_costs(path, {"x": zeros(1, 2, 2, 2)}).macs == 8 * 12 + 48 * 7 + 7


def test_items_of_an_8_bit_file_sum_to_its_size(int8_linear_file):
    path = int8_linear_file("q.onnx", np.random.default_rng(0).normal(size=(40, 6)))
    items = itemise_bytes(path)
    assert (items.weights, items.biases) == (240, 24)
    # Scale and zero point of the input; of each column of the weight; of each bias.
    assert items.scales == (4 + 1) + 6 * (4 + 1) + 6 * (4 + 4)
    assert sum(items.model_dump().values()) == path.stat().st_size
    assert count_costs(path, {"x": zeros(1, 40)}).parameters == 246
    assert count_costs(path, {"x": zeros(1, 40)}).macs == 240


def test_a_codebook_and_its_indices_are_told_apart(onnx_file):
    nodes = [
        helper.make_node("Cast", ["codes"], ["at"], to=TensorProto.INT32),
        helper.make_node("Gather", ["book", "at"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = {"codes": np.zeros((20, 5), np.uint8), "book": ones(16)}
    path = onnx_file("c.onnx", nodes, {"x": (FLOAT, ["n", 20])}, {"y": (FLOAT, ["n", 5])}, constants)
    items = itemise_bytes(path)
    assert (items.codebooks, items.indices, items.weights) == (64, 100, 0)
    assert count_costs(path, {"x": zeros(1, 20)}).parameters == 100


def test_embeddings_are_weights_masks_and_shapes_are_graph(onnx_file):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["e", "position"], ["p"]),
        helper.make_node("Add", ["p", "mask"], ["m"]),
        helper.make_node("Reshape", ["m", "shape"], ["y"]),
    ]
    position = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    mask = np.triu(np.full((4, 6), -np.inf, np.float32), 1)
    constants = {"table": ones(10, 6), "position": position, "mask": mask, "shape": np.array([-1, 24])}
    path = onnx_file("e.onnx", nodes, {"ids": (TensorProto.INT64, ["n", 4])}, {"y": (FLOAT, ["n", 24])}, constants)
    assert itemise_bytes(path).weights == (60 + 24) * 4
    assert count_costs(path, {"ids": np.zeros((1, 4), np.int64)}).parameters == 84


def test_constants_in_nodes_and_in_typed_fields_count(onnx_file):
    weight = helper.make_tensor("w", FLOAT, [3, 2], [float(i) for i in range(6)])
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = onnx_file("n.onnx", nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 2])}, {})
    items = itemise_bytes(path)
    assert 24 <= items.weights <= 27  # the floats, and the tag and length of their field
    assert sum(items.model_dump().values()) == path.stat().st_size


def test_what_does_not_compute_is_not_counted_as_compression(linear_file):
    path = linear_file("l.onnx", np.random.default_rng(0).normal(size=(50, 20)))
    plain = measure_size(path)
    model = onnx.load(path)
    model.doc_string = "made by someone"
    model.graph.node[0].doc_string = "File somewhere.py, line 3" * 100
    path.write_bytes(model.SerializeToString())
    traced = measure_size(path)
    assert traced.disk > plain.disk + 2000
    assert traced.stripped == plain.stripped
    assert plain.fp16 == plain.stripped - 2 * (50 * 20 + 20)
    assert plain.xz < plain.stripped


def test_large_files_are_not_compressed(linear_file, monkeypatch):
    path = linear_file("l.onnx", np.random.default_rng(0).normal(size=(50, 20)))
    known = measure_size(path)
    monkeypatch.setattr("core.measure.size.MOST_FOR_XZ", known.stripped - 1)
    assert measure_size(path) == replace(known, xz=None)


def test_memory_of_a_fresh_process_grows_with_the_file(linear_file):
    small, large = linear_file("s.onnx", np.ones((4, 4))), linear_file("l.onnx", np.ones((2000, 2000)))
    light, heavy = probe_memory((small, large), batch=2, threads=1, repeats=2)
    assert heavy.peak_rss_bytes > light.peak_rss_bytes + 10_000_000
    assert 0 < light.runtime_bytes < light.peak_rss_bytes
    assert light.spread_bytes >= 0
    assert light.load_ms > 0


def test_a_file_that_cannot_run_is_an_error_with_a_sentence(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelpressError, match="cannot open the file") as caught:
        probe_memory((tmp_path / "broken.onnx",), batch=1, threads=1, repeats=1)
    assert caught.value.code == "runtime_failed"
    with pytest.raises(ModelpressError) as caught:
        itemise_bytes(tmp_path / "broken.onnx")
    assert caught.value.code == "corrupt_file"


def test_scales_of_rows_that_are_looked_up_are_told_from_weights(onnx_file):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["rows"], to=FLOAT),
        helper.make_node("Gather", ["scale", "ids"], ["factor"]),
        helper.make_node("Mul", ["rows", "factor"], ["e"]),
        helper.make_node("Gather", ["bias", "ids"], ["b"]),
        helper.make_node("Add", ["e", "b"], ["y"]),
    ]
    rows = np.arange(1, 31, dtype=np.float32).reshape(30, 1)
    constants = {"table": np.ones((30, 6), np.int8), "scale": rows, "bias": rows.copy()}
    path = onnx_file("r.onnx", nodes, {"ids": (TensorProto.INT64, ["n", 4])}, {"y": (FLOAT, ["n", 4, 6])}, constants)
    items = itemise_bytes(path)
    assert (items.weights, items.scales) == (30 * 6 + 30 * 4, 30 * 4)
