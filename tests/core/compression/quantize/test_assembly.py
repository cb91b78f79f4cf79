"""Biases of a quantized network: whose they are, and whether they fit beside the sums of integers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.compression.quantize.assembly import Plan, assemble, placement_of
from core.compression.quantize.templates import make_template
from core.network.inspect import read
from core.network.network import Network
from core.specs.linear import WeightGrid
from tests.core.compression.conftest import save


class Tied(nn.Module):
    """Two products with weights of their own that add the same bias; a third whose bias is read beside it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))) * self.c.bias


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(Tied(), torch.randn(2, 8), tmp_path_factory.mktemp("tied") / "tied.pt2")


@pytest.fixture
def tied(file: Path) -> Network:
    return read(file)


def plan_of(network: Network, grid: WeightGrid, *paths: str) -> Plan:
    layers = {path: network.graph.get_submodule(path) for path in paths}
    rounded = frozenset(paths)
    return Plan(
        layers=rounded,
        weights={path: make_template(layer, layer.weight, grid) for path, layer in layers.items()},
        rounded=rounded,
        ranges=dict.fromkeys(placement_of(network, rounded).sources, (-1.0, 1.0)),
        corrections=dict.fromkeys(paths, torch.ones(8)),
    )


def bias(network: Network, path: str) -> Tensor:
    return network.graph.get_parameter(f"{path}.bias").detach()


def test_a_bias_that_two_layers_share_changes_for_each_alone(tied: Network) -> None:
    before = bias(tied, "a").clone()
    one = assemble(tied, plan_of(tied, WeightGrid(), "a"))
    assert torch.equal(bias(one, "b"), before)
    assert torch.allclose(bias(one, "a"), before + 1, atol=1e-4)
    both = assemble(tied, plan_of(tied, WeightGrid(), "a", "b"))
    for path in ("a", "b"):
        assert torch.allclose(bias(both, path), before + 1, atol=1e-4)
        assert torch.equal(bias(both, path), both.encodings[f"{path}.bias"].decode())
    assert torch.equal(bias(tied, "a"), before)


def test_a_bias_that_is_read_beside_its_layer_stays(tied: Network) -> None:
    assert any(node.op == "get_attr" and node.target == "c.bias" for node in tied.graph.graph.nodes)
    made = assemble(tied, plan_of(tied, WeightGrid(), "c"))
    assert torch.equal(bias(made, "c"), bias(tied, "c"))
    assert "c.bias" not in made.encodings


def test_scales_stay_powers_of_two_where_a_bias_is_large(tied: Network) -> None:
    tied.graph.get_parameter("a.bias").data[0] = 3e7
    plan = plan_of(tied, WeightGrid(scale="power_of_two", per="channel"), "a")
    scale = assemble(tied, plan).encodings["a.weight"].stored()["scale"]
    assert scale[0] > plan.weights["a"].scale[0]
    assert torch.equal(scale[1:], plan.weights["a"].scale[1:])
    assert torch.equal(torch.log2(scale), torch.log2(scale).round())
