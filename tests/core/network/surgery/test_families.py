"""Groups and blocks of published families."""

import pytest

from core.network.describe import describe
from core.network.surgery import drop_blocks, find_blocks
from tests.core.network.surgery.comparing import answers, change_by_order, gap_to_zeros, orders_of
from tests.core.network.surgery.hf_structures import FAMILIES
from tests.core.network.surgery.known import known

pytestmark = pytest.mark.slow
ROUNDING = 2e-5

# How many groups a family has: of less, something is protected that need not be.
GROUPS = {
    "bert": 10,
    "vit": 9,
    "convnextv2": 6,
    "gpt2": 9,
    "llama": 10,
    "swin": 18,
    "regnet": 15,
    "efficientnet": 24,
    "segformer": 27,
    "poolformer": 8,
    "distilbert": 10,
    "albert": 7,
    "qwen3": 10,
    "gpt_neox": 9,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_a_family_can_be_ordered_zeroed_and_cut(name: str) -> None:
    channels, inputs = known(name).channels, known(name).inputs
    assert len(channels.groups) == GROUPS[name]
    assert change_by_order(channels, inputs) < ROUNDING
    # Some of the groups, since families have dozens.
    for group in [group for group in channels.groups if not group.statistic][:: max(1, len(channels.groups) // 6)]:
        assert gap_to_zeros(channels, group, inputs) < ROUNDING, group.name
    keep = {group: order[: group.size // 2].sort().values for group, order in orders_of(channels).items()}
    cut, costs = channels.resize(keep), channels.costs({group: len(kept) for group, kept in keep.items()})
    described = describe(cut)
    assert (costs.parameters, costs.macs) == (described.parameters, described.macs)
    before = answers(channels.network, inputs)
    assert [value.shape for value in answers(cut, inputs)] == [value.shape for value in before]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("bert", ["module.bert.encoder.layer.0", "module.bert.encoder.layer.1"]),
        ("gpt_neox", ["module.gpt_neox.layers.0", "module.gpt_neox.layers.1"]),
        ("swin", [f"module.swin.encoder.layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]),
    ],
)
def test_a_transformer_layer_is_one_block(name: str, blocks: list[str]) -> None:
    network, inputs = known(name).network, known(name).inputs
    assert [block.name for block in find_blocks(network)] == blocks
    shallow = drop_blocks(network, blocks[:1])
    assert not [path for path, _ in shallow.graph.named_parameters() if path.startswith(f"{blocks[0]}.")]
    assert answers(shallow, inputs)[0].shape == answers(network, inputs)[0].shape
