"""Equalization: the same answers, and channels of the same range on both sides."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from core.compression.quantize.equalization import equalize, find_pairs
from core.description import TensorDescription
from core.network.encodings import AffineInteger, symmetric_grid
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from tests.core.compression.conftest import save

CHAIN = ("first", "deep", "point", "fc1", "fc2", "branch", "clipped", "after", "head")


class Chain(nn.Module):
    """A depth-wise triple, a flattened map, products; then what must stay: a sum, a clip at six, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.point = nn.Conv2d(6, 4, 1)
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 8)
        self.branch, self.clipped, self.after = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.conv, self.head = nn.Conv2d(2, 5, 3), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.deep(torch.relu(self.first(x))))
        y = torch.max_pool2d(torch.relu(self.point(y)), 2).flatten(1)
        y = self.fc2(nn.functional.leaky_relu(self.fc1(y), 0.1))
        y = y + self.branch(y)
        y = self.after(nn.functional.relu6(self.clipped(y)))
        return y + self.head(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = Chain()
    with torch.no_grad():
        for parameter in module.parameters():
            # Loud, so that ranges differ by orders of magnitude.
            spread = torch.logspace(-2, 1, len(parameter))[torch.randperm(len(parameter))]
            parameter.mul_(spread.reshape(-1, *[1] * (parameter.dim() - 1)))
        module.first.weight[2] = 0.0
    return save(module, torch.randn(2, 2, 4, 4), tmp_path_factory.mktemp("chain") / "chain.pt2")


@pytest.fixture
def network(file: Path) -> Network:
    return read(file)


def test_weights_that_do_not_lie_in_order_in_memory_are_scaled() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 8, 3, groups=4)).eval()
    module[0].weight.data *= torch.logspace(-2, 1, 4).reshape(-1, 1, 1)
    graph = fx.symbolic_trace(module)
    relu = next(node for node in graph.graph.nodes if node.name == "_1")
    with graph.graph.inserting_after(relu):
        made = graph.graph.call_function(torch.ops.aten.relu.default, relu.args)
    relu.replace_all_uses_with(made)
    graph.graph.erase_node(relu)
    graph.recompile()
    weight = graph.get_parameter("2.weight")
    weight.data = weight.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    described = (TensorDescription(name="x", dtype="float32", shape=("batch", 2, 9)),)
    x = torch.randn(3, 2, 9)
    made_equal, changed = equalize(Network(graph, described, described), ["0", "2"])
    assert changed == ("0", "2")
    assert torch.allclose(made_equal.graph(x), graph(x), rtol=1e-4, atol=1e-5)


def every_layer(network: Network) -> list[str]:
    return [name for name, module in network.graph.named_modules() if hasattr(module, "weight")]


def test_pairs_are_those_that_one_channel_links(network: Network) -> None:
    pairs = {(pair.first, pair.second) for pair in find_pairs(network, every_layer(network))}
    chain = {("first", "deep"), ("deep", "point"), ("point", "fc1"), ("fc1", "fc2"), ("conv", "head")}
    assert pairs == chain


def test_answers_stay_and_ranges_meet(network: Network, tmp_path: Path) -> None:
    x = torch.randn(8, 2, 4, 4)
    before = {name: value.clone() for name, value in network.graph.state_dict().items()}
    made, changed = equalize(network, every_layer(network))
    with torch.no_grad():
        wanted, found = network.graph(x), made.graph(x)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)
    assert set(changed) == {"first", "deep", "point", "fc1", "fc2", "conv", "head"}
    assert all(torch.equal(value, before[name]) for name, value in network.graph.state_dict().items())
    untouched = {name for name in before if name.rpartition(".")[0] not in changed}
    assert all(torch.equal(made.graph.state_dict()[name], before[name]) for name in untouched)
    rows = made.graph.get_submodule("first").get_parameter("weight").abs().flatten(1).amax(1)
    columns = made.graph.get_submodule("deep").get_parameter("weight").abs().flatten(1).amax(1)
    alive = rows > 0
    assert alive.sum() == 5
    assert torch.allclose(rows[alive], columns[alive], rtol=0.05)
    export_onnx(made, tmp_path / "equal.onnx", probes=(x,))


def test_layers_that_are_encoded_or_not_asked_for_stay(network: Network) -> None:
    weight = network.graph.get_parameter("deep.weight")
    network.encodings["deep.weight"] = AffineInteger.of(weight, grid=symmetric_grid(8), axis=0)
    _, changed = equalize(network, set(every_layer(network)) - {"fc2"})
    assert set(changed) == {"point", "fc1", "conv", "head"}


def test_one_scale_for_a_whole_tensor_loses_less(network: Network) -> None:
    x = torch.randn(64, 2, 4, 4)
    uneven = torch.logspace(-2, 2, 6).reshape(-1, 1, 1, 1)
    for path, factor in (("first", uneven), ("deep", 1 / uneven)):
        layer = network.graph.get_submodule(path)
        layer.get_parameter("weight").data = torch.randn(layer.get_parameter("weight").shape) * factor
        layer.get_parameter("bias").data.zero_()

    def error(given: Network) -> float:
        deep, first = given.graph.get_submodule("deep"), given.graph.get_submodule("first")
        with torch.no_grad():
            wanted = deep(first(x).relu())
            for layer in (first, deep):
                weight = layer.get_parameter("weight")
                weight.data = AffineInteger.of(weight, grid=symmetric_grid(8), axis=None).decode()
            return float((deep(first(x).relu()) - wanted).square().mean() / wanted.square().mean())

    made, _ = equalize(network, ["first", "deep"])
    assert error(made) < 0.1 * error(network)
