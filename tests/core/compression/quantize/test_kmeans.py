"""Values chosen for numbers on a line: as good as the best there are, found by trying everything."""

import numpy as np
import pytest

from core.compression.quantize import kmeans
from core.compression.quantize.kmeans import cluster
from core.errors import ModelpressError


def error_of(numbers, book, weights=None):
    nearest = book[np.abs(numbers[:, None].astype(np.float64) - book).argmin(1)]
    return float(np.average((numbers - nearest) ** 2, weights=weights) * len(numbers))


def least_error(numbers, count, weights=None):
    """The exact programme over every border, in time n² · count."""
    order = np.argsort(numbers, kind="stable")
    x = numbers[order].astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights[order]
    weight, first, second = (np.concatenate([[0], np.cumsum(w * x**power)]) for power in range(3))
    begin, end = np.arange(len(x))[:, None], np.arange(1, len(x) + 1)[None]
    mass = np.where(end > begin, weight[end] - weight[begin], 1.0)
    costs = second[end] - second[begin] - (first[end] - first[begin]) ** 2 / mass
    costs = np.where(end > begin, costs, np.inf)
    best = costs[0]
    for _ in range(count - 1):
        best = np.minimum(best, np.concatenate([[np.inf], (best[:-1, None] + costs[1:]).min(0)[1:]]))
    return float(best[-1]) / w.sum() * len(x)


def draw(kind, count, seed):
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.standard_normal(count),
        "laplace": lambda: rng.laplace(size=count),
        "uniform": lambda: rng.uniform(-1, 1, count),
        "heavy": lambda: rng.standard_cauchy(count),
        "two": lambda: np.concatenate([rng.standard_normal(count // 2) / 100 + 3, rng.standard_normal(count // 2)]),
        "duplicates": lambda: np.round(rng.laplace(size=count), 1),
        "pruned": lambda: np.where(rng.uniform(size=count) < 0.8, 0.0, rng.standard_normal(count)),
        "outliers": lambda: np.append(rng.standard_normal(count - 2), [1000.0, -3000.0]),
    }
    return drawn[kind]().astype(np.float32)


def test_numbers_that_vanish_beside_one_give_numbers_still():
    numbers = np.append(draw("normal", 5000, 0) * np.float32(1e-30), np.float32(1.0))
    book = cluster(numbers, 16)
    assert 2 <= len(book) <= 16
    assert np.isfinite(book).all()
    assert book[-1] == 1.0
    assert abs(book[0]) < 1e-6


KINDS = ("normal", "laplace", "uniform", "heavy", "two", "duplicates", "pruned", "outliers")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 16])
def test_of_few_numbers_the_best_values_are_found(kind, count):
    numbers = draw(kind, 200, 0)
    book = cluster(numbers, count)
    assert len(book) == count
    assert np.all(np.diff(book) > 0)
    assert error_of(numbers, book) == pytest.approx(least_error(numbers, count), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "worst"), [(4, 1.0005), (24, 1.0005), (60, 1.0005)])
def test_of_many_numbers_values_about_as_good_are_found(kind, count, worst):
    numbers = draw(kind, 1150, 1)
    if count >= len(np.unique(numbers)):
        assert np.array_equal(cluster(numbers, count), np.unique(numbers).astype(np.float64))
        return
    assert error_of(numbers, cluster(numbers, count)) <= worst * least_error(numbers, count) + 1e-9


def test_weights_say_whose_error_counts():
    rng = np.random.default_rng(2)
    numbers, weights = draw("laplace", 1150, 2), rng.gamma(0.3, size=1150)
    weighted, plain = cluster(numbers, 12, weights), cluster(numbers, 12)
    least = least_error(numbers, 12, weights)
    assert error_of(numbers, weighted, weights) <= 1.0005 * least
    assert error_of(numbers, plain, weights) > 1.05 * least


def test_equal_numbers_count_once_with_all_their_weights():
    numbers = np.array([0, 0, 0, 5, 6, 6], np.float32)
    assert cluster(numbers, 2).tolist() == pytest.approx([0, (5 + 6 + 6) / 3])
    assert cluster(numbers, 2, np.array([0, 0, 1, 3, 0, 0.0])).tolist() == pytest.approx([0, 5], abs=1e-4)


@pytest.mark.parametrize("count", [1, 3, 256])
def test_no_more_values_than_there_are(count):
    assert cluster(np.full(100, 0.25, np.float32), count).tolist() == [0.25]
    assert cluster(np.array([2.0, 1.0, 2.0], np.float32), 2).tolist() == [1.0, 2.0]
    assert cluster(np.array([-1.5], np.float32), count).tolist() == [-1.5]


def test_of_very_many_numbers_neighbours_count_together(monkeypatch):
    numbers = draw("laplace", 60_000, 4)
    plain = cluster(numbers, 32)
    monkeypatch.setattr(kmeans, "_MOST_NUMBERS", 6000)
    monkeypatch.setattr(kmeans, "_ENDS", 200)
    weights = np.full(60_000, 0.5)
    for book in (cluster(numbers, 32), cluster(numbers, 32, weights)):
        assert error_of(numbers, book) <= 1.002 * error_of(numbers, plain)


def test_one_value_is_the_mean_and_weights_of_zero_are_equal_weights():
    numbers = draw("normal", 3000, 3)
    assert cluster(numbers, 1) == pytest.approx([numbers.astype(np.float64).mean()], abs=1e-9)
    assert np.allclose(cluster(numbers[:50], 4, np.zeros(50)), cluster(numbers[:50], 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ModelpressError) as caught:
        cluster(np.array([1.0, bad], np.float32), 2)
    assert caught.value.code == "non_finite"
    with pytest.raises(ModelpressError):
        cluster(np.ones(2, np.float32), 2, np.array([1.0, bad]))
