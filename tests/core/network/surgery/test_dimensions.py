"""The algebra of dimensions: sizes, refinement, and which positions stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.network.surgery.dimensions import (
    Axis,
    Cat,
    Dimension,
    Misfit,
    Mul,
    cut,
    factor,
    freeze,
    is_frozen,
    label,
    leaves,
    multiplied,
    reasons,
    select,
    size,
    unify,
)

expressions = st.recursive(
    st.integers(1, 5).map(Axis),
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from([Cat(parts), Mul(parts)])
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(expressions, st.randoms(use_true_random=False))
def test_what_stays_has_the_size_at_these_widths_and_keeps_whole_indices(e: Dimension, random) -> None:
    keep = {}
    for axis in dict.fromkeys(leaves(e)):
        count = random.randint(1, axis.size)
        keep[axis] = torch.tensor(sorted(random.sample(range(axis.size), count)))
    positions = select(e, keep)
    assert len(positions) == size(e, {axis: len(kept) for axis, kept in keep.items()})
    assert bool((positions.diff() > 0).all())
    # A position stays when, and only when, all of its indices do.
    stays = torch.ones(size(e), dtype=torch.bool)
    for axis, kept in keep.items():
        labels = label(e, axis)
        stays &= (labels < 0) | torch.isin(labels, kept)
    once = len(leaves(e)) == len(set(leaves(e)))
    if once:
        assert torch.equal(positions, stays.nonzero().flatten())


@settings(max_examples=60, deadline=None)
@given(expressions, st.data())
def test_rows_and_parts_have_the_sizes_asked_for(e: Dimension, data) -> None:
    n = size(e)
    rows = data.draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
    try:
        left, right = factor(e, rows)
    except Misfit:
        return
    assert (size(left), size(right)) == (rows, n // rows)
    assert size(e) == n


def test_a_view_as_heads_refines_an_axis_wherever_it_stands() -> None:
    weight, bias = Axis(12), Axis(12)
    unify(weight, bias)
    heads, each = factor(weight, 3)
    assert (size(heads), size(each)) == (3, 4)
    assert [axis.size for axis in leaves(bias)] == [3, 4]
    assert list(multiplied(bias)) == [(heads, each)]


def test_two_products_take_their_common_refinement() -> None:
    a, b = Mul((Axis(4), Axis(6))), Mul((Axis(8), Axis(3)))
    unify(a, b)
    assert [axis.size for axis in leaves(a)] == [axis.size for axis in leaves(b)] == [4, 2, 3]
    assert leaves(a) == leaves(b)


def test_joined_parts_are_cut_at_all_borders() -> None:
    a, b = Cat((Axis(2), Axis(5))), Cat((Axis(4), Axis(3)))
    unify(a, b)
    assert [axis.size for axis in leaves(a)] == [2, 2, 3]
    assert leaves(a) == leaves(b)


def test_what_cannot_be_said_is_frozen_with_a_reason() -> None:
    a, b = Mul((Axis(2), Axis(3))), Mul((Axis(3), Axis(2)))
    unify(a, b)
    assert is_frozen(a)
    assert reasons(a) == {"two block structures that do not fit"}
    with pytest.raises(Misfit):
        unify(Axis(2), Axis(3))


def test_a_dimension_that_equals_itself_turned_round_is_periodic() -> None:
    turned = Axis(6)
    first, rest = cut(turned, 2)
    unify(turned, Cat((rest, first)))
    period, *others = leaves(turned)
    assert period.size == 2
    assert others == [period, period]
    assert select(turned, {period: torch.tensor([1])}).tolist() == [1, 3, 5]


def test_frozen_stays_frozen_through_refinement_and_merging() -> None:
    axis = Axis(6)
    freeze(axis, "why")
    left, right = factor(axis, 2)
    assert reasons(left) == reasons(right) == {"why"}
    free = Axis(6)
    unify(free, axis)
    assert is_frozen(free)


def test_an_index_that_is_shared_by_thousands_is_followed() -> None:
    """A stream of residual sums: each of them merges it with another weight."""
    stream = Axis(4)
    weights = [Axis(4) for _ in range(3000)]
    for weight in weights:
        unify(stream, weight)
    assert leaves(weights[0]) == leaves(stream) == [weights[-1]]
