"""Smoothing: the same answers, and activations behind a norm whose channels are nearer to each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.compression.quantize.smoothing import find_groups, smooth
from core.errors import ModelpressError
from core.network.export import export_onnx
from core.network.inspect import read
from core.network.network import Network
from tests.core.compression.conftest import save

WIDTH = 8


class Blocks(nn.Module):
    """A block that norms first, one that adds the norm's output up again, and a norm that a head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.query, self.key = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 6), nn.Linear(WIDTH, 6, bias=False)
        self.mixed, self.post, self.inner = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.mixed(self.query(y) * self.key(y).sigmoid())
        z = self.post(x)
        return self.head(self.last(z + self.inner(z)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = Blocks()
    with torch.no_grad():
        module.norm.weight[3] = 60.0
        module.norm.weight[5] = 0.0
        module.norm.bias.normal_()
    return save(module, torch.randn(2, 4, WIDTH), tmp_path_factory.mktemp("blocks") / "blocks.pt2")


@pytest.fixture
def network(file: Path) -> Network:
    return read(file)


LAYERS = ("query", "key", "mixed", "inner", "head")


def batches() -> Iterator[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield (torch.randn(8, 4, WIDTH, generator=draw),)


def test_only_norms_whose_readers_are_products_are_taken(network: Network) -> None:
    assert [(group.norm, group.linears) for group in find_groups(network, LAYERS)] == [
        ("norm", ("query", "key")),
        ("last", ("head",)),
    ]
    assert [group.norm for group in find_groups(network, ("query", "inner", "head"))] == ["last"]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_answers_stay(network: Network, alpha: float) -> None:
    before = {name: value.clone() for name, value in network.graph.state_dict().items()}
    made, changed = smooth(network, alpha, batches(), LAYERS)
    assert changed == ("head", "key", "last", "norm", "query")
    for x in batches():
        with torch.no_grad():
            assert torch.allclose(made.graph(*x), network.graph(*x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.graph.state_dict().items())
    named = {name for name in before if name.rpartition(".")[0] not in changed}
    assert all(torch.equal(made.graph.state_dict()[name], before[name]) for name in named)
    assert all(torch.isfinite(value).all() for value in made.graph.state_dict().values())


def test_a_loud_channel_goes_into_the_weights(network: Network, tmp_path: Path) -> None:
    made, _ = smooth(network, 0.5, batches(), LAYERS)
    x = next(batches())

    def spread(given: Network) -> Tensor:
        with torch.no_grad():
            normed = given.graph.get_submodule("norm")(x[0])
        ranges = normed.abs().flatten(0, -2).amax(0)
        return ranges.max() / ranges.median()

    assert spread(made) < 0.3 * spread(network)
    export_onnx(made, tmp_path / "smooth.onnx", probes=x)


def test_nothing_to_smooth_runs_no_samples(network: Network) -> None:
    def refuse() -> Iterator[tuple[Tensor, ...]]:
        raise AssertionError("samples were asked for")
        yield

    assert smooth(network, 0.5, refuse(), ("mixed",)) == (network, ())


def test_without_a_batch_nothing_can_be_told_of_activations(network: Network) -> None:
    with pytest.raises(ModelpressError, match="too few calibration samples"):
        smooth(network, 0.5, iter(()), LAYERS)
