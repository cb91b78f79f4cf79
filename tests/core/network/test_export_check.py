"""How far a written file may be from its network, where small differences grow or activations are rounded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.encodings import ActivationGrid
from core.network.export import export_onnx
from core.network.export_check import ROUNDED_TOLERANCE, check_onnx, noise_inputs, relative_difference
from core.network.inspect import read
from core.network.network import Network

WIDTH, LAYERS = 32, 4
STEEP, GENTLE = 12.0, 2.0


class Waves(nn.Module):
    """Layers that answer small changes with large ones where the gain is steep."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        for layer in self.layers:
            nn.init.normal_(layer.bias, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.gain * layer(x))
        return x


def make(save: Callable[..., Path], gain: float, *, rounded: bool) -> Network:
    torch.manual_seed(0)
    network = read(save(Waves(gain), torch.randn(2, WIDTH)))
    if rounded:
        graph = network.graph.graph
        for number, node in enumerate([node for node in graph.nodes if node.op == "call_module"]):
            network.graph.add_submodule(f"grid_{number}", ActivationGrid.of_range(-4.0, 4.0))
            with graph.inserting_before(node):
                value = graph.call_module(f"grid_{number}", (node.args[0],))
            node.args = (value,)
        network.graph.recompile()
    return network


@pytest.fixture(params=["dense", "rounded"])
def steep(request: pytest.FixtureRequest, save_pt2) -> Network:
    return make(save_pt2, STEEP, rounded=request.param == "rounded")


def _scale(layers: list[nn.Linear]) -> None:
    layers[1].weight.data *= 1.01


def _swap(layers: list[nn.Linear]) -> None:
    layers[2].weight.data = layers[2].weight.data.t().contiguous()


def _drop(layers: list[nn.Linear]) -> None:
    layers[0].bias.data.zero_()


def _drop_last(layers: list[nn.Linear]) -> None:
    layers[-1].bias.data.zero_()


def linears(network: Network) -> list[nn.Linear]:
    return [module for module in network.graph.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("spoil", [_scale, _swap, _drop, _drop_last])
def test_a_wrong_file_of_an_ill_conditioned_network_is_noticed(
    steep: Network, spoil: Callable[[list[nn.Linear]], None], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(steep, path)
    spoil(linears(steep))
    with pytest.raises(ModelpressError) as raised:
        check_onnx(steep, path, None)
    assert raised.value.code == "export_disagrees"


def test_a_weight_that_is_wrong_by_a_hundredth_is_noticed_behind_the_rounding(save_pt2, tmp_path: Path) -> None:
    # By less than what rounding is allowed to change: only the comparison without it can tell.
    network = make(save_pt2, GENTLE, rounded=True)
    path = tmp_path / "model.onnx"
    export_onnx(network, path)
    given = noise_inputs(network)
    with torch.no_grad():
        before = network.graph(*given)
        _scale(linears(network))
        after = network.graph(*given)
    assert relative_difference(after.numpy(), before.numpy()) < ROUNDED_TOLERANCE
    with pytest.raises(ModelpressError) as raised:
        check_onnx(network, path, None)
    assert raised.value.code == "export_disagrees"


def test_sums_in_another_order_are_not_held_against_a_file(steep: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(steep, path)
    given = noise_inputs(steep)
    with torch.no_grad():
        before = steep.graph(*given)
        order = torch.randperm(WIDTH)
        for layer, following in zip(linears(steep), linears(steep)[1:], strict=False):
            layer.weight.data, layer.bias.data = layer.weight.data[order], layer.bias.data[order]
            following.weight.data = following.weight.data[:, order]
        after = steep.graph(*given)
    # The same network otherwise, and yet not the same numbers.
    assert relative_difference(after.numpy(), before.numpy()) > 0
    check_onnx(steep, path, None)
