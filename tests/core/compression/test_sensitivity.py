"""How many layers and samples trials may use, what is told of each layer alone, and how layers are ranked."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from core.compression import sensitivity
from core.compression.context import Context
from core.compression.sensitivity import (
    FEWEST_SAMPLES,
    MOST_MACS,
    SAMPLES,
    SAMPLES_OF_MANY_LAYERS,
    effort_for,
    measure_layers,
    rank,
)
from core.messages import LogMessage, Message, MetricMessage
from core.network.network import Network
from core.network.share import copy_graph
from core.verdict import Sensitivity

MakeContext = Callable[..., Context]
LAYERS = ("fc1", "fc2", "one.conv1", "stem", "two.conv2")


def scaler(network: Network, factors: dict[str, float]) -> Callable[[frozenset[str]], Network]:
    """Stands for a quantizer that does more harm to some layers than to others."""

    def build(layers: frozenset[str]) -> Network:
        made = replace(network, graph=copy_graph(network.graph))
        for layer in layers:
            weight = made.graph.get_submodule(layer).get_parameter("weight")
            weight.data = weight.data * factors.get(layer, 1.0)
        return made

    return build


def test_small_networks_get_all_samples_and_large_ones_what_a_minute_or_two_allows() -> None:
    assert effort_for(22, 40_813_184).samples == SAMPLES
    assert effort_for(65, 10_000_000).samples == SAMPLES_OF_MANY_LAYERS
    large = effort_for(21, 1_800_000_000)
    assert FEWEST_SAMPLES < large.samples < SAMPLES
    assert large.layers == 21
    assert effort_for(1, 0).samples == SAMPLES


@pytest.mark.parametrize("batch", [1, 32])
def test_of_a_huge_network_fewer_layers_are_tried_so_that_the_limit_holds(batch: int) -> None:
    macs = 10_000_000_000
    effort = effort_for(200, macs, batch)
    assert effort.samples == max(FEWEST_SAMPLES, batch)
    assert 1 < effort.layers < 200
    assert effort.layers * effort.samples * macs <= MOST_MACS
    assert effort_for(3, int(1e13)).layers == 1


def test_each_layer_is_told_alone_and_what_gives_no_numbers_is_worst(
    residual: Network, context: MakeContext, told: list[Message]
) -> None:
    build = scaler(residual, {"stem": 0.0, "fc1": 0.9, "fc2": float("nan")})
    found = measure_layers(residual, build, LAYERS, context(), (0.2, 0.6))
    assert tuple(found) == LAYERS
    assert found["fc2"] == Sensitivity(loss_increase=None, sqnr_db=-200.0)
    assert found["two.conv2"] == Sensitivity(loss_increase=0.0, sqnr_db=200.0)
    assert (found["stem"].loss_increase or 0) > (found["fc1"].loss_increase or 0)
    assert rank(found)[:3] == ("fc2", "stem", "fc1")
    metrics = [message for message in told if isinstance(message, MetricMessage)]
    assert {(each.name, each.conditions["layer"]) for each in metrics} == {
        (name, layer) for name in ("loss_increase", "sqnr") for layer in LAYERS
    }
    assert all(each.split == "validation" for each in metrics)


def test_layers_that_were_not_tried_have_no_figures_and_come_last(
    residual: Network, context: MakeContext, told: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "MOST_MACS", 1.0)
    monkeypatch.setattr(sensitivity, "FEWEST_SAMPLES", 4)
    found = measure_layers(residual, scaler(residual, {"fc1": 0.5}), LAYERS, context(), (0.0, 1.0))
    assert found["fc1"].sqnr_db is not None
    assert found["fc2"] == Sensitivity()
    assert rank(found) == LAYERS
    assert any("1 of 5 layers" in message.text for message in told if isinstance(message, LogMessage))


def test_a_network_of_one_batch_size_is_tried_on_a_whole_batch(
    residual: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "MOST_MACS", 1.0)
    shape = (16, *residual.inputs[0].shape[1:])
    fixed = replace(residual, inputs=(residual.inputs[0].model_copy(update={"shape": shape}),))
    found = measure_layers(fixed, scaler(fixed, {"fc1": 0.5}), ("fc1",), context(), (0.0, 1.0))
    assert found["fc1"].sqnr_db is not None
