"""Stripping: nothing of the exporter's machine is left, everything that computes or belongs to the user is."""

import onnx
import onnxruntime as ort
import torch

from core.network.strip import own_metadata, strip_onnx


def test_traces_go_and_the_network_stays(residual, save_onnx) -> None:
    module, example = residual
    model = onnx.load(save_onnx(module, example))
    onnx.helper.set_model_props(model, {"classes": "cat", "pkg.torch.export": "/home/me/train.py"})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/home/me/train.py"
    before = model.SerializeToString()
    stripped = strip_onnx(model)
    written = stripped.SerializeToString()
    assert model.SerializeToString() == before
    assert b"/home/" not in written
    assert b"stack_trace" not in written
    assert b"conftest.py" not in written
    assert b"conftest.py" in before
    assert own_metadata(stripped) == {"classes": "cat"}
    feed = {stripped.graph.input[0].name: example.numpy()}
    run = [ort.InferenceSession(file).run(None, feed)[0] for file in (before, written)]
    torch.testing.assert_close(torch.from_numpy(run[0]), torch.from_numpy(run[1]), rtol=0, atol=0)


def test_stripping_reaches_into_branches() -> None:
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["z"], doc_string="secret")], "b", [], [])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    assert b"secret" not in strip_onnx(model).SerializeToString()
