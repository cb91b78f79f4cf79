"""Sensitivity curves of what is pruned, and the map from old outputs to new ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from core.compression.context import Context
from core.compression.prune import curves
from core.compression.prune.channel_map import compose, kept_outputs
from core.compression.prune.channels import ChannelPruner
from core.compression.prune.masks import MaskPruner
from core.compression.yardstick import Yardstick, choosing_split
from core.data.dataset import Dataset
from core.messages import Message, MetricMessage
from core.network.network import Network
from core.specs.mask_pruning import WeightPruning
from core.specs.structured_pruning import ChannelPruning
from tests.core.network.surgery.known import known

MakeContext = Callable[..., Context]


def test_a_point_is_what_masking_that_layer_alone_costs(
    residual: Network, context: MakeContext, images: Dataset, told: list[Message]
) -> None:
    spec = WeightPruning.model_validate({"criterion": "l2", "protect": ["stem"]})
    _, report = MaskPruner().apply(residual, spec, context())
    assert set(report.sensitivities) == set(report.layers)
    assert "stem" not in report.sensitivities
    yardstick = Yardstick(residual, images, split=choosing_split(images), limit=curves.SAMPLES)
    alone = {"keep": 0.25, "ranking": "layer", "criterion": "l2"}
    others = [layer for layer in report.layers if layer != "fc1"]
    masked, _ = MaskPruner().apply(
        residual, WeightPruning.model_validate(alone | {"protect": ["stem", *others]}), replace(context(), dataset=None)
    )
    increase = yardstick.score(masked).loss - yardstick.original.loss
    assert [point.kept for point in report.sensitivities["fc1"].curve] == [0.75, 0.5, 0.25]
    assert report.sensitivities["fc1"].curve[-1].loss_increase == pytest.approx(increase, abs=1e-6)
    series = [each for each in told if isinstance(each, MetricMessage) and each.name == "prune_sensitivity"]
    points = {(str(each.conditions["layer"]), each.at, each.value) for each in series}
    assert points >= {("fc1", p.kept, p.loss_increase) for p in report.sensitivities["fc1"].curve}


def test_channels_have_curves_by_the_layer_that_names_them(residual: Network, context: MakeContext) -> None:
    _, report = ChannelPruner().apply(residual, ChannelPruning(criterion="l2", protect=("fc1",)), context())
    with_curves = {layer for layer, found in report.sensitivities.items() if found.curve}
    assert with_curves == {"stem", "one.conv1", "one.conv2", "two.conv1", "two.conv2"}


def test_a_large_network_is_tried_at_few_layers(
    residual: Network, context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.compression.prune.curves.describe", lambda network: type("D", (), {"macs": 10**11}))
    found = curves.measure_curves(residual, lambda name, share: residual, ["stem", "fc1", "fc2"], context(), (0, 1))
    assert list(found) == ["fc1"]
    assert [point.loss_increase for point in found["fc1"]] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["grouped", "transposed", "lstm", "tied", "torch_attention"])
def test_new_outputs_are_the_old_ones_that_the_map_names(name: str) -> None:
    channels = known(name).channels
    keep = {group: torch.arange(1, group.size, 2) for group in channels.groups}
    outputs = kept_outputs(channels, keep)
    cut = channels.resize(keep)
    assert outputs
    for layer, kept in outputs.items():
        old, new = (network.graph.get_submodule(layer) for network in (known(name).network, cut))
        if isinstance(old, torch.nn.RNNBase):
            # Its outputs are inputs of its own recurrence.
            assert kept == tuple(range(1, old.hidden_size, 2))
            continue
        # A bias has a number an output; where inputs are cut too, they cannot be told apart from the weight alone.
        if getattr(old, "bias", None) is not None:
            assert torch.equal(new.bias, old.bias[list(kept)])
        else:
            assert len(kept) in new.weight.shape


def test_maps_that_follow_each_other_are_one() -> None:
    first, second = {"a": (1, 3, 5), "b": (0,)}, {"a": [0, 2], "c": [4]}
    assert compose([first, second]) == {"a": (1, 5), "b": (0,), "c": (4,)}
