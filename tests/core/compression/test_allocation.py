"""Bits under a budget: the exact optimum, as trying everything finds it."""

import itertools
import math

import numpy as np
import pytest

from core.compression.quantize.allocation import Allocation, Options, allocate, trace_curve


def drawn(seed: int, layers: int, count: int) -> Options:
    rng = np.random.default_rng(seed)
    costs = tuple(tuple(float(x) for x in 10 ** rng.uniform(-7, 1, count)) for _ in range(layers))
    sizes = tuple(tuple(float(x) for x in rng.integers(10, 100_000, count)) for _ in range(layers))
    return Options(costs, sizes)


def try_all(options: Options, budget: float) -> Allocation | None:
    every = (options.total(each) for each in itertools.product(*(range(len(row)) for row in options.costs)))
    return min((each for each in every if each.size <= budget), key=lambda each: each.cost, default=None)


@pytest.mark.parametrize(("layers", "count"), [(1, 4), (3, 5), (5, 4), (8, 3)])
def test_it_is_what_trying_everything_finds(layers: int, count: int) -> None:
    for seed in range(6):
        options = drawn(seed, layers, count)
        for share in (0.9, 1.0, 1.3, 2.0, 50.0):
            budget = options.smallest().size * share
            wanted, found = try_all(options, budget), allocate(options, budget)
            assert (wanted is None) == (found is None) == (share < 1)
            if wanted is not None and found is not None:
                assert found.size <= budget
                assert found.cost == pytest.approx(wanted.cost, rel=1e-9)


def test_many_layers_get_bits_that_use_the_budget() -> None:
    rng = np.random.default_rng(0)
    weights, bits = 10 ** rng.uniform(2, 6.5, 160), (2, 3, 4, 5, 6, 8, 32)
    harm = 10 ** rng.uniform(0, 3, 160)
    costs = tuple(
        tuple(float(a * 4.0**-b * f) for b, f in zip(bits, 10 ** rng.uniform(-0.1, 0.1, 7), strict=True)) for a in harm
    )
    options = Options(costs, tuple(tuple(float(math.ceil(n * b / 8)) for b in bits) for n in weights))
    budget = float(weights.sum() * 3.5 / 8)
    found = allocate(options, budget)
    assert found is not None
    assert 0.9999 * budget < found.size <= budget
    equal = options.total([1] * 160)
    assert found.cost < equal.cost / 2


def test_what_costs_nothing_is_taken_in_its_least_size_and_equal_budgets_fit() -> None:
    options = Options(((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)), ((1.0, 2.0, 4.0), (1.0, 2.0, 4.0)))
    assert allocate(options, 100.0) == Allocation((0, 1), 0.0, 3.0)
    assert allocate(options, 2.0) == Allocation((0, 0), 1.0, 2.0)
    assert allocate(options, 1.9) is None
    assert options.largest() == Allocation((0, 1), 0.0, 3.0)


def test_a_cost_that_is_no_number_is_never_taken() -> None:
    options = Options(((math.nan, 2.0), (math.inf, 1.0)), ((1.0, 8.0), (1.0, 8.0)))
    assert options.smallest().size == 16.0
    assert allocate(options, 15.0) is None
    assert allocate(options, 16.0) == Allocation((1, 1), 3.0, 16.0)
    with pytest.raises(ValueError, match="layer 1"):
        Options(((1.0,), (math.nan,)), ((1.0,), (1.0,)))


def test_sizes_may_be_zero_or_below() -> None:
    # Times of layers are differences of measured ones.
    options = Options(((1.0, 0.0), (5.0, 0.0)), ((-0.2, 0.1), (0.0, 0.3)))
    assert allocate(options, 0.1) == Allocation((0, 1), 1.0, pytest.approx(0.1))
    assert allocate(options, -0.2) == Allocation((0, 0), 6.0, -0.2)
    assert allocate(options, 0.0) == Allocation((0, 0), 6.0, -0.2)


def test_the_curve_falls_from_the_least_to_all() -> None:
    options = drawn(3, 6, 5)
    curve = trace_curve(options, 10)
    assert curve[0] == options.smallest()
    assert curve[-1].cost == pytest.approx(options.largest().cost)
    assert all(one.size < other.size and one.cost > other.cost for one, other in itertools.pairwise(curve))
    single = Options(((1.0,),), ((3.0,),))
    assert trace_curve(single, 10) == (Allocation((0,), 1.0, 3.0),)
