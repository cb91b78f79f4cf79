"""Models whose large weights are in other files: read, compared, described and measured from where they are."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from core.measure.memory import planned_peak_bytes
from core.measure.size import itemise_bytes, measure_size
from core.network.gate_onnx import open_onnx
from core.network.inspect import inspect, read
from core.network.onnx_outside import bytes_outside, is_outside, save_onnx

ROWS, COLUMNS = 300, 128
LARGE = ROWS * COLUMNS * 4
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32)
MATRIX = RNG.normal(size=(COLUMNS, ROWS)).astype(np.float32)
BIAS = RNG.normal(size=ROWS).astype(np.float32)


def upload(folder: Path, *, gap: int = 0, counts: bool = False) -> dict[str, Path]:
    """A table, a matrix and a bias in two files; `gap` bytes lie before each weight. What counts is no network."""
    weights = []
    places: dict[str, bytes] = {}
    for name, array, file in (("emb", TABLE, "a.bin"), ("fc:w", MATRIX, "b.bin"), ("fc:b", BIAS, "b.bin")):
        data = places.get(file, b"") + b"\xff" * gap
        places[file] = data + array.tobytes()
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", len(data)), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    nodes = [
        helper.make_node("Gather", ["emb", "ids:0"], ["e"]),
        helper.make_node("Tanh", ["e"], ["t"]),
        helper.make_node("MatMul", ["t", "fc:w"], ["m"]),
        helper.make_node("Add", ["m", "fc:b"], ["logits:0"]),
    ]
    ids = helper.make_tensor_value_info("ids:0", TensorProto.INT64, ["batch", 5])
    logits = helper.make_tensor_value_info("logits:0", TensorProto.FLOAT, ["batch", 5, ROWS])
    if counts:
        nodes.append(helper.make_node("NonZero", ["logits:0"], ["where"], "count"))
        logits = helper.make_tensor_value_info("where", TensorProto.INT64, [3, "found"])
    graph = helper.make_graph(nodes, "g", [ids], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    # Staged files are named by what is in them.
    files = {"net.onnx": folder / "0", **{name: folder / str(index) for index, name in enumerate(places, 1)}}
    (folder / "0").write_bytes(model.SerializeToString())
    for name, data in places.items():
        files[name].write_bytes(data)
    return files


def answer(ids: torch.Tensor) -> np.ndarray:
    return np.tanh(TABLE[ids.numpy()]) @ MATRIX + BIAS


@pytest.mark.parametrize("gap", [0, 4, 3])
def test_large_weights_stay_outside_and_the_network_is_the_same(tmp_path: Path, gap: int) -> None:
    files = upload(tmp_path, gap=gap)
    model = open_onnx(files)
    assert [is_outside(tensor) for tensor in model.graph.initializer] == [True, True, False]
    assert bytes_outside(model) == 2 * LARGE
    described = inspect(files)
    assert (described.mode, described.batch) == ("network", "dynamic")
    assert described.parameters == TABLE.size + MATRIX.size + BIAS.size
    assert 2 * LARGE < described.bytes_stripped < 2 * LARGE + 3000
    assert {layer.kind for layer in described.layers} == {"embedding", "linear"}
    ids = torch.randint(0, ROWS, (3, 5))
    with torch.no_grad():
        assert np.allclose(read(files).graph(ids).numpy(), answer(ids), atol=1e-4)


def test_a_weight_that_is_changed_changes_neither_the_file_nor_another_reading(tmp_path: Path) -> None:
    files = upload(tmp_path)
    first = read(files)
    with torch.no_grad():
        for parameter in first.graph.parameters():
            parameter.zero_()
    ids = torch.randint(0, ROWS, (2, 5))
    with torch.no_grad():
        assert not first.graph(ids).any()
        assert np.allclose(read(files).graph(ids).numpy(), answer(ids), atol=1e-4)
    assert files["a.bin"].read_bytes() == TABLE.tobytes()


def test_what_is_no_network_is_described_from_where_it_is(tmp_path: Path) -> None:
    described = inspect(upload(tmp_path, counts=True))
    assert (described.mode, described.why_node) == ("onnx_only", "count")
    assert described.parameters == TABLE.size + MATRIX.size + BIAS.size
    assert [layer.kind for layer in described.layers] == ["linear"]
    assert 2 * LARGE < described.bytes_stripped < 2 * LARGE + 3000


def test_a_saved_copy_is_measured_with_the_file_beside_it(tmp_path: Path) -> None:
    model = open_onnx(upload(tmp_path, gap=4))
    path = tmp_path / "copy" / "original.onnx"
    path.parent.mkdir()
    save_onnx(model, path)
    data = path.with_name("original.onnx.data")
    ids = torch.randint(0, ROWS, (2, 5))
    session = onnxruntime.InferenceSession(path)
    assert np.allclose(session.run(None, {"ids:0": ids.numpy()})[0], answer(ids), atol=1e-4)
    size = measure_size(path)
    assert size.disk == path.stat().st_size + data.stat().st_size
    assert 2 * LARGE < size.stripped <= size.disk
    assert size.xz > LARGE
    assert size.fp16 == size.stripped - (2 * LARGE + BIAS.nbytes) // 2
    items = itemise_bytes(path)
    assert items.weights == 2 * LARGE
    assert sum(items.model_dump().values()) == size.disk
    feed = {"ids:0": ids.numpy()}
    whole = tmp_path / "whole.onnx"
    onnx.save(onnx.load(path), whole)
    assert planned_peak_bytes(path, feed) == planned_peak_bytes(whole, feed)
