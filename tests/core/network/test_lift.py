"""What lifting promises: layers that train, share and export again."""

import pytest
import torch
from torch import Tensor, fx, nn

from core.network.inspect import read
from core.network.lift import layer_path


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("conv1.weight", "conv1"),
        ("layers.0.conv1.weight", "layers.0.conv1"),
        ("att.in_proj_weight", "att.in_proj"),
        ("bn.running_mean", "bn"),
        ("pos", "pos"),
        ("weight", None),
        ("onnx::Conv_12", None),
    ],
)
def test_a_layer_is_named_after_its_weight(weight: str, layer: str | None) -> None:
    assert layer_path(weight) == layer


def test_layers_are_nested_under_the_users_names(residual, save_pt2) -> None:
    module, example = residual
    graph = read(save_pt2(module, example)).graph
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == ["stem.0", "stem.1", "block", "fc"]
    assert isinstance(graph.get_submodule("stem.1"), nn.BatchNorm2d)
    assert graph.get_submodule("block").padding == "same"


def test_one_dimensional_layers_are_one_dimensional(series, save_pt2) -> None:
    module, example = series
    graph = read(save_pt2(module, example)).graph
    kinds = {name: type(graph.get_submodule(name)) for name in ("conv", "norm", "fc", "norm2")}
    assert kinds == {"conv": nn.Conv1d, "norm": nn.BatchNorm1d, "fc": nn.Linear, "norm2": nn.BatchNorm1d}


def test_a_layer_called_twice_is_one_layer_and_a_tied_weight_one_parameter(tied, save_pt2) -> None:
    module, example = tied
    graph = read(save_pt2(module, example)).graph
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert calls.count("mix") == 2
    embedding = next(layer for layer in graph.modules() if isinstance(layer, nn.Embedding))
    heads = [layer for layer in graph.modules() if isinstance(layer, nn.Linear) and layer.weight is embedding.weight]
    assert len(heads) == 1
    assert sum(1 for _ in graph.parameters()) == sum(1 for _ in module.parameters())


class Crossing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.att(x, x.relu(), x.tanh(), need_weights=False)[0]


def test_the_matrix_of_attention_is_one_layer_or_three(attention, save_pt2) -> None:
    module, example = attention
    own = read(save_pt2(module, example)).graph
    crossing = read(save_pt2(Crossing(), torch.randn(2, 3, 8))).graph
    layers = [
        [name for name, _ in graph.named_modules() if name.startswith("att.in_proj")] for graph in (own, crossing)
    ]
    assert layers == [["att.in_proj"], ["att.in_proj_0", "att.in_proj_1", "att.in_proj_2"]]


@pytest.mark.parametrize("name", ["residual", "attention", "tied", "series"])
def test_a_lifted_network_trains(name: str, request, save_pt2) -> None:
    module, example = request.getfixturevalue(name)
    graph = read(save_pt2(module, example)).graph
    assert not graph.training
    graph.train()
    found = graph(torch.cat([example, example]))
    sum(value.square().sum() for value in (found if isinstance(found, tuple) else (found,))).backward()
    silent = [name for name, parameter in graph.named_parameters() if parameter.grad is None]
    assert not silent


@pytest.mark.parametrize("name", ["residual", "attention", "tied", "series"])
def test_a_lifted_network_is_exported_again_with_a_free_batch(name: str, request, save_pt2) -> None:
    module, example = request.getfixturevalue(name)
    first = read(save_pt2(module, example))
    again = read(save_pt2(first.graph, example))
    assert again.batch == "dynamic"
    inputs = torch.cat([example, example])[:3]
    with torch.no_grad():
        before, after = first.graph(inputs), again.graph(inputs)
    torch.testing.assert_close(after, before)


def test_a_graph_can_be_copied_and_does_not_hold_fake_tensors(attention, save_pt2) -> None:
    module, example = attention
    network = read(save_pt2(module, example, dynamic=False))
    assert isinstance(network.graph, fx.GraphModule)
    assert all("value" not in node.meta for node in network.graph.graph.nodes)
