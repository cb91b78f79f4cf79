"""What groups promise: any order gives the same outputs; without indices it is as if these were zero."""

import functools

import pytest
import torch
from torch import Tensor

from core.network.describe import describe
from core.network.network import Network
from core.network.surgery import Channels
from tests.core.network.surgery.comparing import answers, distance, zeroed
from tests.core.network.surgery.structures import STRUCTURES, network_of

# Sums in another order differ by rounding alone.
ROUNDING = 2e-5


@functools.cache
def known(name: str) -> tuple[Network, tuple[Tensor, ...], Channels]:
    torch.manual_seed(0)
    made = STRUCTURES[name]()
    network = network_of(made)
    return network, made[1], Channels(network)


def order(channels: Channels, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(group.size, generator=generator) for group in channels.groups}


def some(channels: Channels, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        group: torch.randperm(group.size, generator=generator)[: max(1, group.size // 2)].sort().values
        for group in channels.groups
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_order_of_all_groups_gives_the_same_outputs(name: str) -> None:
    network, inputs, channels = known(name)
    assert channels.groups
    assert not channels.unknown
    before = answers(network, inputs)
    after = answers(channels.permuted(order(channels)), inputs)
    assert distance(after, before) < ROUNDING


@pytest.mark.parametrize("name", STRUCTURES)
def test_cutting_an_index_is_setting_it_to_zero(name: str) -> None:
    network, inputs, channels = known(name)
    for group in channels.groups:
        if group.statistic:
            continue
        gone = torch.arange(0, group.size, 2)
        kept = torch.tensor([index for index in range(group.size) if index not in gone.tolist()])
        expected = answers(zeroed(network, group, gone), inputs)
        found = answers(channels.resize({group: kept}), inputs)
        assert distance(found, expected) < ROUNDING, group.name


@pytest.mark.parametrize("name", STRUCTURES)
def test_shapes_and_costs_at_a_width_are_those_of_the_cut_network(name: str) -> None:
    network, inputs, channels = known(name)
    keep = some(channels)
    widths = {group: len(kept) for group, kept in keep.items()}
    cut = channels.resize(keep)
    found = {name: tuple(weight.shape) for name, weight in cut.graph.named_parameters()}
    assert found == {name: channels.shape(name, widths) for name in found}
    described = describe(cut)
    costs = channels.costs(widths)
    assert (costs.parameters, costs.macs, costs.bytes) == (
        described.parameters,
        described.macs,
        4 * described.parameters,
    )
    assert costs.macs < channels.costs().macs == describe(network).macs
    assert [value.shape for value in answers(cut, inputs)] == [value.shape for value in answers(network, inputs)]
