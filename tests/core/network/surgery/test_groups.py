"""What groups promise: any order gives the same outputs; without indices it is as if these were zero."""

import pytest
import torch

from core.network.describe import describe
from core.network.surgery import Channels
from tests.core.network.surgery.comparing import answers, change_by_order, gap_to_zeros
from tests.core.network.surgery.known import known
from tests.core.network.surgery.structures import STRUCTURES

# Sums in another order differ by rounding alone.
ROUNDING = 2e-5


def some(channels: Channels, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        group: torch.randperm(group.size, generator=generator)[: max(1, group.size // 2)].sort().values
        for group in channels.groups
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_order_of_all_groups_gives_the_same_outputs(name: str) -> None:
    channels = known(name).channels
    assert channels.groups
    assert not channels.unknown
    assert change_by_order(channels, known(name).inputs) < ROUNDING


@pytest.mark.parametrize("name", STRUCTURES)
def test_cutting_an_index_is_setting_it_to_zero(name: str) -> None:
    for group in known(name).channels.groups:
        if not group.statistic:
            assert gap_to_zeros(known(name).channels, group, known(name).inputs) < ROUNDING, group.name


@pytest.mark.parametrize("name", STRUCTURES)
def test_shapes_and_costs_at_a_width_are_those_of_the_cut_network(name: str) -> None:
    network, inputs, channels = known(name).network, known(name).inputs, known(name).channels
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
