import numpy as np
import pytest
from scipy import stats

from core.measure.intervals import (
    compare_means,
    compare_proportions,
    mean_interval,
    median_ratio_interval,
    wilson_interval,
)


def answers(both, lost, gained, neither):
    before = np.repeat([True, True, False, False], [both, lost, gained, neither])
    after = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return before, after


def test_wilson_interval_of_a_published_example():
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263.
    interval = wilson_interval(81, 263)
    assert interval.low == pytest.approx(0.2553, abs=5e-5)
    assert interval.high == pytest.approx(0.3662, abs=5e-5)


def test_mcnemar_is_exact():
    test = compare_proportions(*answers(9228, 10, 8, 754))
    assert test.delta == pytest.approx(-0.0002)
    # Two-sided binomial of 8 in 18: 0.8145 by hand.
    assert test.p == pytest.approx(0.814529, abs=1e-6)
    assert test.low < test.delta < test.high


@pytest.mark.parametrize(("few", "all_"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 40), (1999, 2000)])
def test_both_are_those_of_scipy(few, all_):
    interval, wanted = wilson_interval(few, all_), stats.binomtest(few, all_).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    p = compare_proportions(*answers(5, few, all_ - few, 5)).p
    assert p == pytest.approx(stats.binomtest(few, all_).pvalue, rel=1e-9)


def test_paired_interval_is_symmetric_and_bounded():
    before, after = answers(50, 9, 3, 20)
    there, back = compare_proportions(before, after), compare_proportions(after, before)
    assert there.delta == -back.delta
    assert there.low == pytest.approx(-back.high)
    assert there.high == pytest.approx(-back.low)
    assert there.p == back.p


def test_equal_answers_still_have_an_interval():
    test = compare_proportions(*answers(900, 0, 0, 100))
    assert (test.delta, test.p) == (0, 1)
    assert -0.01 < test.low < 0 < test.high < 0.01


@pytest.mark.parametrize(("both", "lost", "gained"), [(0.85, 0.02, 0.01), (0.5, 0.1, 0.1), (0.9, 0.005, 0.001)])
def test_paired_interval_covers_the_truth(both, lost, gained):
    rng = np.random.default_rng(0)
    covered = 0
    for counts in rng.multinomial(500, [both, lost, gained, 1 - both - lost - gained], 400):
        test = compare_proportions(*answers(*counts))
        covered += test.low <= gained - lost <= test.high
    assert 0.93 <= covered / 400 <= 1


def test_bootstrap_covers_the_truth_and_finds_a_shift():
    rng = np.random.default_rng(0)
    covered = rejected = 0
    for seed in range(100):
        before = rng.normal(size=60)
        after = before + rng.normal(0.1, 0.2, 60)
        test = compare_means(before, after, seed)
        covered += test.low <= 0.1 <= test.high
        rejected += compare_means(before, before + rng.normal(0, 0.2, 60), seed).p < 0.05
    assert 0.88 <= covered / 100 <= 0.99
    assert rejected / 100 <= 0.12
    assert compare_means(before, before + 1, 0).p < 0.001


def test_bootstrap_of_equal_values_says_no_difference():
    test = compare_means(np.arange(9.0), np.arange(9.0), 0)
    assert (test.delta, test.low, test.high, test.p) == (0, 0, 0, 1)
    interval = mean_interval(np.full(5, 2.0), 0)
    assert (interval.low, interval.high) == (2, 2)


def test_bootstrap_is_seeded():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, 1) == mean_interval(values, 1)
    assert mean_interval(values, 1) != mean_interval(values, 2)


def test_drift_that_both_share_does_not_widen_the_ratio():
    drift = np.linspace(1, 3, 50).reshape(5, 10)
    interval = median_ratio_interval(2 * drift, drift, 0)
    assert interval.low == pytest.approx(2)
    assert interval.high == pytest.approx(2)


def test_a_whole_block_that_is_off_is_noise():
    rng = np.random.default_rng(0)
    alone = wrong = 0
    for seed in range(100):
        before, after = (1 + 0.05 * rng.normal(size=(5, 1)) + 0.002 * rng.normal(size=(5, 10)) for _ in range(2))
        blocks, flat = (
            median_ratio_interval(before.reshape(shape), after.reshape(shape), seed) for shape in ((5, 10), (1, 50))
        )
        wrong += blocks.low > 1 or blocks.high < 1
        alone += flat.low > 1 or flat.high < 1
    assert wrong < 18
    assert alone > wrong + 8
