"""What a thin student is: narrower everywhere by the same share, with the largest of the teacher's weights."""

import pytest
import torch

from core.errors import ModelpressError
from core.network.describe import describe
from core.network.surgery import Channels, choose_widths, magnitude, outer_groups, round_width, thin
from tests.core.network.surgery.comparing import answers
from tests.core.network.surgery.structures import STRUCTURES, Einsum, network_of


def shapes(network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in network.graph.named_parameters()}


@pytest.mark.parametrize(
    ("positions", "width", "kept"),
    [(2, 0.5, 2), (6, 0.5, 3), (16, 0.25, 4), (50, 0.5, 24), (500, 0.5, 248), (1, 0.5, 1)],
)
def test_widths_are_rounded_to_what_kernels_like(positions: int, width: float, kept: int) -> None:
    assert round_width(positions, width) == kept


def test_half_the_width_of_a_residual_network_is_a_quarter_of_its_weights() -> None:
    made = STRUCTURES["residual"]()
    teacher = network_of(made)
    before = shapes(teacher)
    student = thin(teacher, width=0.5)
    assert shapes(teacher) == before
    assert shapes(student)["body.3.first.0.weight"] == (16, 16, 3, 3)
    assert describe(student).macs < 0.3 * describe(teacher).macs
    assert answers(student, made[1])[0].shape == (3, 10)


def test_heads_are_cut_and_their_size_is_kept() -> None:
    student = thin(network_of(STRUCTURES["torch_attention"]()), width=0.5)
    found = shapes(student)
    # Half of the heads, each of 8 as before, and half of the width that all layers share.
    assert found["layer.self_attn.in_proj_weight"] == (3 * 2 * 8, 16)
    assert found["layer.linear1.weight"] == (32, 16)


@pytest.mark.parametrize(("heads", "cut"), [(4, 4), (16, 16), (2, 32)])
def test_of_heads_and_their_size_one_is_cut_and_heads_first(heads: int, cut: int) -> None:
    channels = Channels(network_of((Einsum(64, heads), (torch.randn(3, 12, 8),))))
    both = {heads, 64 // heads}
    chosen = choose_widths(channels, 0.5)
    assert {group.size for group in chosen if group.size in both} == {cut}
    assert {group.size: width for group, width in chosen.items()} == {64: 32, cut: cut // 2}


def test_the_student_starts_from_the_largest_weights() -> None:
    teacher = network_of(STRUCTURES["plain"]())
    group = Channels(teacher).group("hidden.weight[0]")
    best = magnitude(group).topk(32).indices.sort().values
    student = thin(teacher, width=0.5)
    assert torch.equal(student.graph.get_parameter("hidden.bias"), teacher.graph.get_parameter("hidden.bias")[best])


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_a_width_outside_of_its_range_is_refused(width: float) -> None:
    with pytest.raises(ModelpressError, match="width") as caught:
        thin(network_of(STRUCTURES["halves"]()), width=width)
    assert caught.value.code == "invalid_request"


def test_of_two_groups_in_one_dimension_the_inner_one_is_pruned_where_the_outer_has_two_indices() -> None:
    sizes = {heads: {group.size for group in outer_groups(_einsum(heads))} for heads in (2, 4)}
    # Heads of 16 and of 32, and the width that all layers share.
    assert sizes == {4: {4, 64}, 2: {32, 64}}


def _einsum(heads: int) -> Channels:
    return Channels(network_of((Einsum(64, heads), (torch.randn(3, 12, 8),))))
