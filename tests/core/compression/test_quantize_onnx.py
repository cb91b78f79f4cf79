"""`quantize.onnx` through the whole runner: files with control flow, networks, and what speaks against it."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from pydantic import ValidationError

from core.compression.file_layers import list_changed_layers
from core.compression.pipeline import run
from core.compression.quantize.inner_graphs import all_nodes, inner_graphs, name_nodes
from core.compression.quantize.onnx_file import _nodes_of
from core.errors import ModelpressError
from core.measure.runtime import open_session, run_session
from core.messages import ArtifactMessage, Message, RunJob
from core.network.inspect import inspect
from core.specs.linear import LinearQuantization
from core.specs.onnx_quantize import OnnxQuantization
from core.verdict import Verdict

DEMO = Path(__file__).parents[3] / "demo"
DATASET = {
    "task": "classification",
    "inputs": {"x": {"layout": "NHW", "scale": 1 / 255, "mean": [0.5], "std": [0.5]}},
    "splits": {"train": {"x": "x_train", "y": "y_train"}, "evaluation": {"x": "x_test", "y": "y_test"}},
}
# A branch on the data, and a loop whose length is counted from it.
CONTROL_FLOW = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n,16] x) => (float[n,8] y) <float zero = {0.}, bool go = {1}> {
    h = MatMul(x, fc1)
    r = Relu(h)
    s = ReduceSum<keepdims = 0>(r)
    c = Greater(s, zero)
    [choice] b = If(c) <
        then_branch = t () => (float[n,256] o) { o = Mul(r, gain) },
        else_branch = e () => (float[n,256] p) { p = Neg(r) }>
    counted = Cast<to = 7>(c)
    [turns] z = Loop(counted, go, b) <
        body = l (int64 i, bool more, float[n,256] a) => (bool again, float[n,256] out) {
            again = Identity(more)
            out = Tanh(a)
        }>
    y = MatMul(z, fc2)
}"""


@pytest.fixture(scope="module")
def control_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(CONTROL_FLOW)
    for name, shape in (("fc1", (16, 256)), ("fc2", (256, 8)), ("gain", (256,))):
        weight = rng.standard_normal(shape).astype(np.float32) / 4
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.helper.set_model_props(model, {"author": "me"})
    path = tmp_path_factory.mktemp("models") / "control_flow.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def staged(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"path": str(path), "filename": path.name, "sha256": digest, "bytes": len(content)}


def run_job(work: Path, model: Path, *steps: dict[str, Any], **changes: Any) -> tuple[Verdict, list[Message]]:
    request = {
        "job": "job_1",
        "recipe": {"steps": steps},
        "target": {"batch_sizes": [1]},
        "constraints": {},
        "seed": 0,
        "model": [staged(model)],
        "lock_path": str(work / "lock"),
        **changes,
    }
    told: list[Message] = []
    verdict = run(RunJob.model_validate(request), told.append, work)
    return verdict, told


def step(**settings: Any) -> dict[str, Any]:
    return {"method": "quantize.onnx", **settings}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_the_model_with_control_flow_is_read_as_a_file_only(control_flow: Path) -> None:
    description = inspect(control_flow)
    assert (description.mode, description.why_node) == ("onnx_only", "turns")
    refused = LinearQuantization().requires(description)
    assert not refused.ok
    assert "quantize.onnx" in str(refused.why)
    assert OnnxQuantization().requires(description).ok
    assert len(OnnxQuantization().requires(description).layers) == 2


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_file_with_control_flow_becomes_smaller_and_is_judged(control_flow: Path, tmp_path: Path, mode: str) -> None:
    verdict, told = run_job(tmp_path, control_flow, step(mode=mode))
    assert verdict.change.size_ratio > 1.5
    assert verdict.result.quality is not None
    assert 0 < verdict.result.quality.value < 0.1
    assert [layer.encoding for layer in verdict.layers] == ["int8", "int8"]
    codes = [finding.code for finding in verdict.findings]
    assert "synthetic_data_only" in codes
    assert "weights_inside_float" not in codes
    kinds = {message.artifact_kind for message in told if isinstance(message, ArtifactMessage)}
    assert kinds == {"model.onnx", "report.json", "recipe.json", "plan.json", "README.md", "log"}
    file = tmp_path / "out" / "model.onnx"
    assert sum(verdict.itemised_bytes.model_dump().values()) == file.stat().st_size
    found = operators(file)
    assert found["If"] == found["Loop"] == 1
    assert found["DequantizeLinear" if mode == "static" else "MatMulInteger"] >= 2
    assert {entry.key: entry.value for entry in onnx.load(file).metadata_props} == {"author": "me"}


def test_the_range_of_weights_is_that_of_the_plan_and_not_of_this_cpu(control_flow: Path, tmp_path: Path) -> None:
    for name in ("first", "again", "asked", "wrong"):
        (tmp_path / name).mkdir()
    run_job(tmp_path / "first", control_flow, step(mode="dynamic"))
    plan = tmp_path / "first" / "out" / "plan.json"
    decided = json.loads(plan.read_text())
    reduced = not decided["steps"][0]["reduce_range"]
    decided["steps"][0]["reduce_range"] = reduced
    other = tmp_path / "plan.json"
    other.write_text(json.dumps(decided))
    run_job(tmp_path / "again", control_flow, step(mode="dynamic"), plan=staged(other))
    assert json.loads((tmp_path / "again" / "out" / "plan.json").read_text())["steps"][0]["reduce_range"] is reduced
    wanted = "on" if reduced else "off"
    run_job(tmp_path / "asked", control_flow, step(mode="dynamic", reduce_range=wanted))
    files = [(tmp_path / name / "out" / "model.onnx").read_bytes() for name in ("first", "again", "asked")]
    assert files[0] != files[1] == files[2]
    del decided["steps"][0]["reduce_range"]
    other.write_text(json.dumps(decided))
    with pytest.raises(ModelpressError, match="reduced the range") as raised:
        run_job(tmp_path / "wrong", control_flow, step(mode="dynamic"), plan=staged(other))
    assert raised.value.code == "invalid_request"


def test_layers_that_are_named_stay_float(control_flow: Path, tmp_path: Path) -> None:
    first, second = OnnxQuantization().requires(inspect(control_flow)).layers
    verdict, _ = run_job(tmp_path, control_flow, step(mode="dynamic", keep_float=[first]))
    assert {layer.name: layer.encoding for layer in verdict.layers} == {first: "float32", second: "int8"}
    changed = list_changed_layers(inspect(control_flow), control_flow, tmp_path / "out" / "model.onnx")
    assert changed == (second,)


class Reader(CalibrationDataReader):
    def __init__(self, rows: np.ndarray) -> None:
        self._feeds = iter([{"x": rows}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def test_it_answers_as_the_quantizer_called_directly(control_flow: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x_train=rows, x_test=rows)
    spec = {"task": "none", "splits": {"calibration": {"x": "x_train"}, "evaluation": {"x": "x_test"}}}
    settings = step(reduce_range="off", calibration={"samples": 40})
    run_job(tmp_path, control_flow, settings, dataset=[staged(tmp_path / "rows.npz")], dataset_spec=spec)
    quant_pre_process(control_flow, tmp_path / "prepared.onnx", skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(
        tmp_path / "prepared.onnx",
        tmp_path / "stock.onnx",
        Reader(rows),
        per_channel=True,
        extra_options={"QDQKeepRemovableActivations": True},
        **types,
    )
    ours, stock = tmp_path / "out" / "model.onnx", tmp_path / "stock.onnx"
    assert operators(ours) == operators(stock)
    (found,), (wanted,) = (run_session(open_session(path, 1), {"x": rows}) for path in (ours, stock))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_every_calibration_gives_a_file(control_flow: Path, tmp_path: Path, method: str) -> None:
    verdict, _ = run_job(tmp_path, control_flow, step(calibration={"method": method, "samples": 48}))
    assert verdict.result.quality is not None
    assert verdict.result.quality.value < 0.2


def test_a_network_can_be_quantized_as_a_file_too(tmp_path: Path) -> None:
    data = {"dataset": [staged(DEMO / "mnist.npz")], "dataset_spec": DATASET}
    verdict, _ = run_job(tmp_path, DEMO / "lenet5.onnx", step(calibration={"samples": 64}), **data)
    assert verdict.change.size_ratio > 3.5
    assert verdict.change.quality is not None
    assert verdict.change.quality.low > -0.05
    assert {layer.name: layer.encoding for layer in verdict.layers} == dict.fromkeys(
        ("conv1", "conv2", "fc1", "fc2"), "int8"
    )
    assert not (tmp_path / "out" / "model.pt2").exists()


@pytest.mark.parametrize("methods", [("quantize.linear", "quantize.onnx"), ("quantize.onnx", "quantize.linear")])
def test_integers_are_not_quantized_again(tmp_path: Path, methods: tuple[str, str]) -> None:
    with pytest.raises(ModelpressError) as raised:
        run_job(tmp_path, DEMO / "lenet5.onnx", *({"method": method} for method in methods))
    assert (raised.value.code, raised.value.step) == ("method_not_applicable", methods[1])


def test_what_is_quantized_already_is_refused(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n,4] x) => (float[n,4] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    path = tmp_path / "quantized.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(ModelpressError) as raised:
        run_job(tmp_path, path, step())
    assert raised.value.code == "method_not_applicable"
    assert "quantized already" in raised.value.detail


def test_signed_activations_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValidationError, match="unsigned"):
        OnnxQuantization(mode="dynamic", types="s8s8")


def test_a_layer_that_the_runtime_merged_away_cannot_be_kept_silently():
    graph = onnx.parser.parse_graph("g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, fc1) }")
    graph.node[0].name = "product"
    assert _nodes_of(("fc1",), graph) == ["product"]
    with pytest.raises(ModelpressError, match="merged fc2") as caught:
        _nodes_of(("fc1", "fc2"), graph)
    assert caught.value.code == "quantizer_failed"


# Each branch holds a matrix of its own, and both read one of the main graph.
BRANCHES = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n,16] x) => (float[n,8] y) <float zero = {0.}> {
    s = ReduceSum<keepdims = 0>(x)
    c = Greater(s, zero)
    [choice] y = If(c) <
        then_branch = t () => (float[n,8] o) { p = MatMul(x, one) q = Relu(p) o = MatMul(q, LENT) },
        else_branch = e () => (float[n,8] u) { v = MatMul(x, two) w = Neg(v) u = MatMul(w, LENT) }>
}"""


@pytest.fixture
def branches(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file that has weights in its branches only; `lent` ones are the main graph's."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(BRANCHES.replace("LENT", "lent" if request.param else "own"))
    graphs = [attribute.g for attribute in model.graph.node[-1].attribute]
    for graph, name in zip(graphs, ("one", "two"), strict=True):
        shapes = {name: (16, 256), **({} if request.param else {"own": (256, 8)})}
        for each, shape in shapes.items():
            weight = rng.standard_normal(shape).astype(np.float32) / 4
            graph.initializer.append(onnx.numpy_helper.from_array(weight, each))
    if request.param:
        weight = rng.standard_normal((256, 8)).astype(np.float32) / 4
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "lent"))
    path = tmp_path / "branches.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("branches", [False], indirect=True)
def test_branches_that_hold_their_own_weights_are_quantized_in_dynamic_mode(branches: Path, tmp_path: Path) -> None:
    description = inspect(branches)
    refused = OnnxQuantization().requires(description)
    assert not refused.ok
    assert "`dynamic`" in str(refused.why)
    assert OnnxQuantization(mode="dynamic").requires(description).ok
    verdict, _ = run_job(tmp_path, branches, step(mode="dynamic"))
    assert verdict.change.size_ratio > 2.5
    assert verdict.result.quality is not None
    assert 0 < verdict.result.quality.value < 0.1
    assert "weights_inside_float" not in [finding.code for finding in verdict.findings]


@pytest.mark.parametrize("branches", [True], indirect=True)
def test_weights_that_stay_float_inside_are_named_with_their_bytes(branches: Path, tmp_path: Path) -> None:
    model = onnx.load(branches)
    model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "main"], ["z"], name="main"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 256]))
    weight = np.random.default_rng(1).standard_normal((16, 256)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "main"))
    branches.write_bytes(model.SerializeToString())
    verdict, _ = run_job(tmp_path, branches, step())
    (found,) = [finding for finding in verdict.findings if finding.code == "weights_inside_float"]
    # Two matrices of 16×256 and one of 256×8.
    assert "41.0 kB" in found.text
    assert [layer.encoding for layer in verdict.layers] == ["int8"]


@pytest.mark.parametrize("branches", [False], indirect=True)
def test_no_node_inside_has_the_name_of_another(branches: Path) -> None:
    graph = onnx.load(branches).graph
    for node in all_nodes(graph):
        node.name = "same"
    graph.node[-1].name = "same_inside_0"
    name_nodes(graph)
    inside = [node.name for inner in inner_graphs(graph) for node in inner.node]
    assert len({*inside, "same", "same_inside_0"}) == len(inside) + 2
