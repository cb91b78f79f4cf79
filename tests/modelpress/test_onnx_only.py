"""A file with control flow through a whole service: upload, refusal that helps, dry run, job, verdict, file."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from tests.modelpress.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n,16] x) => (float[n,8] y) <float zero = {0.}> {
    h = MatMul(x, fc1)
    s = ReduceSum<keepdims = 0>(h)
    c = Greater(s, zero)
    [choice] b = If(c) <
        then_branch = t () => (float[n,256] o) { o = Tanh(h) },
        else_branch = e () => (float[n,256] p) { p = Neg(h) }>
    y = MatMul(b, fc2)
}"""


def test_a_file_with_control_flow_is_compressed(modelpress: Run, tmp_path: Path) -> None:
    rng, graph = np.random.default_rng(0), onnx.parser.parse_model(GRAPH)
    for name, shape in (("fc1", (16, 256)), ("fc2", (256, 8))):
        weight = rng.standard_normal(shape).astype(np.float32) / 4
        graph.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    (tmp_path / "flow.onnx").write_bytes(graph.SerializeToString())
    model = json.loads(modelpress("upload", tmp_path / "flow.onnx", "--json").stdout)
    assert (model["mode"], model["why_node"]) == ("onnx_only", "choice")
    assert "quantize.onnx" in model["capabilities"]["quantize.linear"]["why"]

    recipe = {"recipe": {"steps": [{"method": "quantize.onnx"}]}, "target": {"batch_sizes": [1]}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    asked = ("run", tmp_path / "recipe.yaml", "--model", model["id"])
    assert "quantize.onnx" in modelpress(*asked, "--dry-run").stdout
    ran = modelpress(*asked, "--watch", "--json")
    assert ran.returncode == 0, ran.stderr
    job = json.loads(ran.stdout)
    assert job["verdict"]["change"]["size_ratio"] > 1.5
    assert "synthetic_data_only" in [finding["code"] for finding in job["verdict"]["findings"]]
    fetched = modelpress("get", job["id"], "--to", tmp_path / "out", "--kind", "model.onnx", "--json")
    (file,) = json.loads(fetched.stdout)["files"]
    assert onnxruntime.InferenceSession(file).run(None, {"x": np.zeros((1, 16), np.float32)})[0].shape == (1, 8)
