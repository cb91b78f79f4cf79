"""A network comes back from its two files with every bit, every name and every tie; other files are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.checkpoint import read_network, save_tensors, write_network
from core.network.encodings import ActivationGrid, AffineInteger, symmetric_grid
from core.network.export_graph import example_inputs
from core.network.fold import fold_batch_norm
from core.network.inspect import read
from core.network.network import Network
from core.network.share import copy_graph

Save = Callable[..., Path]
DEMO = Path(__file__).parents[3] / "demo"


def round_trip(network: Network, folder: Path) -> Network:
    write_network(network, folder / "network.json", folder / "network.safetensors")
    return read_network(folder / "network.json", folder / "network.safetensors")


def draw(network: Network) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn_like(value) if value.is_floating_point() else value for value in example_inputs(network)]


def outputs(network: Network, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = network.graph(*inputs)
    return [found] if isinstance(found, Tensor) else list(found)


def ties(graph: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for path, value in graph.named_parameters(remove_duplicate=False):
        groups.setdefault(id(value), []).append(path)
    return list(groups.values())


def assert_same(network: Network, again: Network) -> None:
    assert [node.format_node() for node in again.graph.graph.nodes] == [
        node.format_node() for node in network.graph.graph.nodes
    ]
    assert [node.meta.get("rank") for node in again.graph.graph.nodes] == [
        node.meta.get("rank") for node in network.graph.graph.nodes
    ]
    assert again.graph.code == network.graph.code
    assert [repr(module) for module in again.graph.modules()] == [repr(module) for module in network.graph.modules()]
    before, after = network.graph.state_dict(), again.graph.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name]), name
    assert ties(network.graph) == ties(again.graph)
    assert not any(module.training for module in again.graph.modules())
    for name in ("inputs", "outputs", "sizes", "dtype", "batch", "batch_reason", "metadata"):
        assert getattr(again, name) == getattr(network, name)
    assert list(again.encodings) == list(network.encodings)
    for path, encoding in network.encodings.items():
        assert again.encodings[path].config() == encoding.config()
    inputs = draw(network)
    for one, other in zip(outputs(network, inputs), outputs(again, inputs), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


class Recurrent(nn.Module):
    """Layers with hidden states, and others that the structures of the other tests do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 4, batch_first=True)
        self.norm = nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose1d(4, 3, 3, stride=2, output_padding=1)
        self.instance = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
        self.rms = nn.RMSNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(x)[0])[0]
        x = self.up(self.norm(x.transpose(1, 2)))
        return self.rms(self.instance(x)[..., :6]) * float("inf")


def recurrent() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Recurrent(), torch.randn(2, 7, 5)


@pytest.mark.parametrize("name", ["residual", "attention", "tied", "series", "recurrent"])
def test_each_structure_comes_back(name: str, request: pytest.FixtureRequest, save_pt2: Save, tmp_path: Path) -> None:
    module, example = recurrent() if name == "recurrent" else request.getfixturevalue(name)
    network = read(save_pt2(module, example))
    assert_same(network, round_trip(network, tmp_path))


def test_a_network_from_onnx_comes_back(tmp_path: Path) -> None:
    network = fold_batch_norm(read(DEMO / "lenet5.onnx"))
    assert_same(network, round_trip(network, tmp_path))


def encoded(network: Network) -> Network:
    """Every matrix and kernel as 8-bit integers, and a grid behind the first call."""
    graph = copy_graph(network.graph)
    encodings = {}
    for path, weight in graph.named_parameters():
        if weight.dim() > 1:
            encodings[path] = AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)
            weight.data = encodings[path].decode()
    graph.add_submodule("grid_0", ActivationGrid.of_range(-1.0, 3.0))
    node = next(node for node in graph.graph.nodes if node.op == "call_module")
    with graph.graph.inserting_after(node):
        rounded = graph.graph.call_module("grid_0", (node,))
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
    graph.recompile()
    return Network(graph, network.inputs, network.outputs, encodings, sizes=network.sizes)


def test_encoded_weights_are_written_once_and_come_back(tmp_path: Path) -> None:
    network = encoded(read(DEMO / "lenet5.onnx"))
    assert_same(network, round_trip(network, tmp_path))
    integers = sum(encoding.bytes().weights for encoding in network.encodings.values())
    assert (tmp_path / "network.safetensors").stat().st_size < integers + 20_000


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    network = encoded(read(DEMO / "lenet5.onnx"))
    written = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        network = round_trip(network, folder)
        written.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert written[0] == written[1]


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    given = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.t(), "none": torch.zeros(0)}
    save_tensors({**given, "nothing": torch.zeros(0)}, tmp_path / "tensors")
    found = load_file(tmp_path / "tensors")
    assert all(torch.equal(found[name], value) for name, value in given.items())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("stored")
    round_trip(read(DEMO / "lenet5.onnx"), folder)
    return json.loads((folder / "network.json").read_text()), folder / "network.safetensors"


def changed(description: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> str:
    copied = json.loads(json.dumps(description))
    change(copied)
    return json.dumps(copied)


def first(description: dict[str, Any], op: str) -> dict[str, Any]:
    return next(node for node in description["nodes"] if node["op"] == op)


def calling(target: str, *args: object) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        first(description, "call_function").update(target=target, args={"tuple": list(args)})

    return change


def layer(**settings: object) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        description["layers"][0].update(settings)

    return change


def rename(description: dict[str, Any], old: str, new: str) -> None:
    for entry in (*description["layers"], *description["tensors"]):
        entry["path"] = entry["path"].replace(old, new)
    for node in description["nodes"]:
        node["target"] = node["target"].replace(old, new)


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a function of the system": calling("os.system", "true"),
    "a builtin": calling("builtins.eval", "1"),
    "an operator that calls": calling("_operator.methodcaller", "x"),
    "an operator that opens a file": calling("torch.ops.aten.from_file.default", "/etc/passwd"),
    "an operator of another library": calling("torch.ops.prim.device.default"),
    "a packet without an overload": calling("torch.ops.aten.relu"),
    "an attribute of an overload": calling("torch.ops.aten.relu.__class__"),
    "a method": lambda description: first(description, "call_function").update(op="call_method", target="tofile"),
    "a layer of another class": layer(kind="Sequential"),
    "a layer with more settings": layer(settings={"in_features": 1, "out_features": 1, "device": "cuda"}),
    "a layer of another size": lambda description: description["layers"][0]["settings"].update(out_channels=7),
    "a value that nothing makes": lambda description: first(description, "output").update(
        args={"tuple": [{"node": "x9"}]}
    ),
    "an argument of another kind": lambda description: first(description, "output").update(args={"eval": "1"}),
    "a member of torch that is no type": calling("torch.ops.aten.relu.default", {"dtype": "torch.load"}),
    "a field of its own": lambda description: description.update(more=1),
    "another version": lambda description: description.update(version=2),
    "a tensor that is not there": lambda description: description["tensors"][0].update(tensor="none"),
    "a place in no layer": lambda description: description["tensors"][0].update(path="no.layer.weight"),
    "a method of a layer": lambda description: description["tensors"][0].update(path="forward", kind="buffer"),
    "a name with code": lambda description: first(description, "call_function").update(name="x = 1; import os #"),
    "an argument's name with code": lambda description: first(description, "call_function").update(
        kwargs={"a=[].append(1), b": 1}
    ),
    "an input with code": lambda description: first(description, "placeholder").update(target="x=open('/etc/passwd')"),
    "an input that is a keyword": lambda description: first(description, "placeholder").update(target="None"),
    "a layer's path with code": lambda description: rename(description, "conv1", 'conv1"), open("x'),
    "an operator that writes a file into a tensor": calling("torch.ops.aten.from_file.out", "/etc/passwd"),
    "a layer that divides by zero": layer(
        kind="GroupNorm", settings={"num_groups": 0, "num_channels": 4, "eps": 1.0, "affine": True}
    ),
    "an encoding that is none": lambda description: description["encodings"].update({"conv1.weight": {"kind": "x"}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_was_not_written_here_is_refused(name: str, stored: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    description, tensors = stored
    path = tmp_path / "network.json"
    path.write_text(changed(description, HOSTILE[name]))
    with pytest.raises(ModelpressError) as caught:
        read_network(path, tensors)
    assert caught.value.code == "corrupt_file"


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04\x95.", b"[]", b"\xff" * 100])
def test_bytes_that_are_no_checkpoint(content: bytes, stored: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    description, tensors = stored
    broken = tmp_path / "broken"
    broken.write_bytes(content)
    good = tmp_path / "network.json"
    good.write_text(json.dumps(description))
    for pair in ((broken, tensors), (good, broken)):
        with pytest.raises(ModelpressError):
            read_network(*pair)


def test_a_layer_that_is_not_in_the_list_is_not_written(tmp_path: Path) -> None:
    network = read(DEMO / "lenet5.onnx")
    network.graph.add_submodule("odd", nn.Softmax(1))
    with pytest.raises(ModelpressError, match="Softmax"):
        write_network(network, tmp_path / "a", tmp_path / "b")
