"""Intervals and paired tests for quality, all at 95 %."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

CONFIDENCE = 0.95
RESAMPLES = 2000
RESAMPLE_CHUNK = 50

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired difference, its interval and the two-sided p-value of no difference."""

    delta: float
    low: float
    high: float
    p: float


def wilson_interval(successes: int, n: int) -> Interval:
    """Score interval of a proportion (Wilson 1927)."""
    # scipy.stats has the same, and takes most of a second to import.
    z = float(ndtri((1 + CONFIDENCE) / 2))
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(successes * (n - successes) / n + z * z / 4)
    return Interval(centre - half if successes else 0.0, centre + half if successes < n else 1.0)


def compare_proportions(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedTest:
    """Difference of two proportions on the same samples, `after` minus `before`.

    p is McNemar's exact test; the interval is method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635, which
    stays honest when few samples or none changed.
    """
    n = len(before)
    both, lost = int((before & after).sum()), int((before & ~after).sum())
    gained = int((~before & after).sum())
    neither = n - both - lost - gained
    p = min(2 * float(bdtr(min(lost, gained), lost + gained, 0.5)), 1.0)
    new, old = (both + gained) / n, (both + lost) / n
    new_interval, old_interval = wilson_interval(both + gained, n), wilson_interval(both + lost, n)
    phi = _phi(both, gained, lost, neither)
    delta = new - old
    low = delta - _combine(new - new_interval.low, old_interval.high - old, phi)
    high = delta + _combine(old - old_interval.low, new_interval.high - new, phi)
    return PairedTest(delta, low, high, p)


def mean_interval(values: Vector, seed: int) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979)."""
    low, high = np.percentile(_bootstrap_means(values, seed), _tails())
    return Interval(float(low), float(high))


def compare_means(before: Vector, after: Vector, seed: int) -> PairedTest:
    """Difference of two means on the same samples by a bootstrap over the pairs.

    p is the share of means, centred on no difference, that are as far away as the one found (Efron and Tibshirani
    1993, chapter 16).
    """
    differences = after - before
    delta = float(differences.mean())
    means = _bootstrap_means(differences, seed)
    low, high = np.percentile(means, _tails())
    as_far = int((np.abs(means - delta) >= abs(delta)).sum())
    return PairedTest(delta, float(low), float(high), (as_far + 1) / (RESAMPLES + 1))


def median_ratio_interval(numerator: Matrix, denominator: Matrix, seed: int) -> Interval:
    """Bootstrap interval of median(numerator)/median(denominator), both (blocks, runs).

    Blocks are resampled, then pairs of runs in them (Davison and Hinkley 1997, section 3.8), because what a block
    shares, such as where its memory lies, does not average out over its runs.
    """
    blocks, runs = numerator.shape
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, blocks, (RESAMPLES, blocks, 1)), rng.integers(0, runs, (RESAMPLES, blocks, runs))
    above, below = (np.median(values[chosen].reshape(RESAMPLES, -1), axis=1) for values in (numerator, denominator))
    low, high = np.percentile(above / below, _tails())
    return Interval(float(low), float(high))


def median_interval(values: Matrix, seed: int) -> Interval:
    """Bootstrap interval of a median over (blocks, runs)."""
    return median_ratio_interval(values, np.ones_like(values), seed)


def _bootstrap_means(values: Vector, seed: int) -> Vector:
    rng = np.random.default_rng(seed)
    parts: list[Any] = []
    # In chunks, so that memory does not grow with the number of resamples.
    for start in range(0, RESAMPLES, RESAMPLE_CHUNK):
        count = min(RESAMPLE_CHUNK, RESAMPLES - start)
        parts.append(values[rng.integers(0, len(values), (count, len(values)))].mean(axis=1))
    return np.concatenate(parts)


def _tails() -> list[float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    return [tail, 100 - tail]


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    """Correlation of the two answers with Newcombe's correction for continuity."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    corrected = max(product - (both + gained + lost + neither) / 2, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)


def _combine(left: float, right: float, phi: float) -> float:
    return math.sqrt(max(left * left - 2 * phi * left * right + right * right, 0.0))
