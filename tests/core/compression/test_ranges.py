import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.compression.quantize.observers import BINS, Histogram
from core.compression.quantize.ranges import choose_range, settle_symmetry
from core.network.encodings import ActivationGrid
from core.specs.calibration import Calibration
from core.specs.linear import ActivationGrid as Asked

METHODS = ("minmax", "percentile", "mse", "entropy")


def histogram_of(*parts: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_a_histogram_does_not_depend_on_the_order_of_batches(seed: int, parts: int) -> None:
    values = torch.randn(600, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-6, 4, 600)
    whole = histogram_of(values)
    pieces = histogram_of(*reversed(values.chunk(parts)))
    assert np.array_equal(whole.counts, pieces.counts)
    assert (whole.low, whole.high, whole.radius) == (pieces.low, pieces.high, pieces.radius)
    assert whole.counts.sum() == 600
    assert whole.counts.size == BINS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_a_range_lies_within_what_was_seen_and_holds_zero(method: str, shift: float) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) + shift
    low, high = choose_range(histogram_of(values), Calibration(method=method))
    assert min(float(values.min()), 0.0) <= low <= 0.0 <= high <= max(float(values.max()), 0.0)
    assert high - low > 2.0


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_outliers_are_clipped_where_that_pays(method: str) -> None:
    values = torch.relu(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
    values[:2] = 40.0
    _, high = choose_range(histogram_of(values), Calibration(method=method))
    assert high < 20.0


def test_mse_is_no_worse_than_minmax() -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) ** 3
    errors = {}
    for method in ("minmax", "mse"):
        grid = ActivationGrid.of_range(*choose_range(histogram_of(values), Calibration(method=method)))
        errors[method] = float((grid(values) - values).square().mean())
    assert errors["mse"] < errors["minmax"]


def test_dead_values_give_an_empty_range() -> None:
    for method in METHODS:
        assert choose_range(histogram_of(torch.zeros(10)), Calibration(method=method)) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("sign", "zero"), [(None, 8), (1.0, 0), (-1.0, 8)])
def test_a_symmetric_grid_stays_so_with_a_power_of_two(method: str, sign: float | None, zero: int) -> None:
    values = torch.randn(5_000, generator=torch.Generator().manual_seed(0)) * 1.3
    values = values if sign is None else values.abs() * sign
    asked = Asked(bits=4, symmetric=True, scale="power_of_two")
    grid = ActivationGrid.of_range(*choose_range(histogram_of(values), Calibration(method=method), asked), 4)
    assert int(grid.zero_point) == zero
    assert float(torch.log2(grid.scale)) == round(float(torch.log2(grid.scale)))


@pytest.mark.parametrize(("least", "most", "symmetric"), [(-1.0, 2.0, True), (-0.2, 4.0, False), (0.0, 3.0, False)])
def test_by_itself_a_grid_is_symmetric_where_both_sides_are_used(least: float, most: float, symmetric: bool) -> None:
    histogram = histogram_of(torch.linspace(least, most, 1000))
    assert settle_symmetry(histogram, Asked()).symmetric is symmetric
    assert settle_symmetry(histogram, Asked(symmetric=False)).symmetric is False
    ends = choose_range(histogram, Calibration(method="minmax"), settle_symmetry(histogram, Asked()))
    grid = ActivationGrid.of_range(*ends, signed=True)
    assert grid.signed is symmetric
    assert grid.signed == (int(grid.zero_point) == 128)
    assert choose_range(histogram, Calibration(method="minmax"), Asked()) == pytest.approx((least, most))
