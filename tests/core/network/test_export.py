import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.encodings import AffineInteger, symmetric_grid
from core.network.export import export_onnx, export_pt2, export_safetensors
from core.network.export_check import check_onnx
from core.network.inspect import read
from core.network.network import Network


class Mixed(nn.Module):
    """A convolution, a batched and a plain product, an embedding of a position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.mix = nn.Linear(36, 8)
        self.position = nn.Parameter(torch.randn(6, 8))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).flatten(2)
        return self.head((self.mix(y) + self.position).flatten(1))


@pytest.fixture
def network(save_pt2) -> Network:
    torch.manual_seed(0)
    made = read(save_pt2(Mixed(), torch.randn(2, 1, 8, 8)))
    made.metadata["classes"] = "a,b,c,d,e"
    return made


@pytest.fixture
def encoded(network: Network) -> Network:
    for path in ("conv", "mix", "head"):
        weight = network.graph.get_submodule(path).get_parameter("weight")
        encoding = AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)
        weight.data = encoding.decode()
        network.encodings[f"{path}.weight"] = encoding
    return network


def test_onnx_has_a_free_batch_the_users_names_and_nothing_of_this_machine(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(network, path)
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == [tensor.name for tensor in network.inputs]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"classes": "a,b,c,d,e"}
    assert {"conv.weight", "mix.weight", "head.bias", "position"} <= {tensor.name for tensor in model.graph.initializer}
    assert {"conv", "mix", "head"} <= {node.name for node in model.graph.node}
    content = path.read_bytes()
    for leak in (b"/work", b"site-packages", b".py", b"stack_trace", str(Path.cwd()).encode()):
        assert leak not in content
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = torch.randn(batch, 1, 8, 8)
        (found,) = session.run(None, {network.inputs[0].name: x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, network.graph(x).numpy(), rtol=1e-4, atol=1e-5)


def test_encoded_weights_are_stored_as_integers_in_every_format(encoded: Network, tmp_path: Path) -> None:
    export_onnx(encoded, tmp_path / "model.onnx")
    export_pt2(encoded, tmp_path / "model.pt2")
    export_safetensors(encoded, tmp_path / "model.safetensors")
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    program = torch.export.load(tmp_path / "model.pt2")
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert json.loads(stored.metadata()["encodings"])["mix.weight"]["name"] == "int8"
        for path in ("conv", "mix", "head"):
            assert kinds[f"{path}.weight"] == onnx.TensorProto.INT8
            assert program.state_dict[f"{path}.weight"].dtype is torch.int8
            assert stored.get_tensor(f"{path}.weight").dtype is torch.int8
            scale = stored.get_tensor(f"{path}.weight.scale")
            decoded = stored.get_tensor(f"{path}.weight").float() * scale.reshape(
                -1, *[1] * (3 if path == "conv" else 1)
            )
            assert torch.equal(decoded, encoded.encodings[f"{path}.weight"].decode())


def test_pt2_is_plain_aten_and_loads_in_a_fresh_interpreter(encoded: Network, tmp_path: Path) -> None:
    path = tmp_path / "any name.pt2"
    export_pt2(encoded, path)
    program = torch.export.load(path)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in operators), operators
    assert program.example_inputs is None
    x = torch.randn(3, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch; x = torch.load(sys.argv[2]); "
        "print(torch.export.load(sys.argv[1]).module()(x).double().sum().item())"
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", script, str(path), str(tmp_path / "x.pt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    with torch.no_grad():
        assert float(answer.stdout) == pytest.approx(float(encoded.graph(x).double().sum()), rel=1e-5)
    assert b"site-packages" not in path.read_bytes()


def test_bytes_do_not_depend_on_where_and_when(encoded: Network, tmp_path: Path) -> None:
    for export, suffix in ((export_onnx, "onnx"), (export_pt2, "pt2"), (export_safetensors, "safetensors")):
        (tmp_path / "deeper").mkdir(exist_ok=True)
        first, second = tmp_path / f"a.{suffix}", tmp_path / "deeper" / f"other.{suffix}"
        export(encoded, first)
        export(encoded, second)
        assert first.read_bytes() == second.read_bytes()


def test_a_written_pt2_is_read_again_as_a_network(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    export_pt2(network, path)
    again = read(path)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(again.graph(x), network.graph(x), atol=1e-6)


def test_a_file_that_computes_something_else_is_noticed(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(network, path)
    network.graph.get_submodule("head").get_parameter("bias").data += 1.0
    with pytest.raises(ModelpressError) as caught:
        check_onnx(network, path, None)
    assert caught.value.code == "export_disagrees"


def test_weights_that_do_not_fit_into_one_file_are_refused(network: Network, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("core.network.export.MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(ModelpressError) as raised:
        export_onnx(network, tmp_path / "model.onnx")
    assert raised.value.code == "graph_too_large"
    assert not (tmp_path / "model.onnx").exists()
