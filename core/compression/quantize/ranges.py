"""Which range of an activation the integers of its grid should span, chosen from its histogram."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from core.compression.quantize.observers import Histogram
from core.specs.calibration import Calibration
from core.specs.linear import ActivationGrid

_CANDIDATES = np.linspace(1.0, 0.3, 71)
# A bin that alone holds more than this share is one value, not a piece of a distribution.
_SPIKE = 0.01
_TINY = 1e-12
# Powers of two below the one that clips nothing; the one above for a zero point that is rounded inwards.
_EXPONENTS = (0, 1, 2, 3, -1)
USUAL = ActivationGrid()
# By `auto`, of a value whose shorter side is at least this share of the longer: at most 0.83 bits are lost.
_ABOUT_ALIKE = 1 / 8

Range = tuple[float, float]


def choose_range(histogram: Histogram, calibration: Calibration, asked: ActivationGrid = USUAL) -> Range:
    """The range by the criterion of `calibration.method`; it always holds zero.

    A symmetric grid has its zero in the middle, or at the end where nothing is negative; one with a power of two as its
    scale has the exponent of the least squared error. `auto` is symmetric only by `settle_symmetry`.
    """
    if not histogram.counts.any():
        return 0.0, 0.0
    asked = asked.model_copy(update={"symmetric": asked.symmetric is True})
    levels = 2**asked.bits
    if asked.symmetric and calibration.method == "mse":
        ends = _symmetric_mse(histogram, levels)
    else:
        ends = _CRITERIA[calibration.method](histogram, calibration, levels)
    if ends[0] == ends[1]:
        return ends
    if asked.symmetric:
        ends = _symmetric(ends[0], ends[1], levels)
    return _power_of_two(histogram, ends, levels, asked) if asked.scale == "power_of_two" else ends


def settle_symmetry(histogram: Histogram, asked: ActivationGrid) -> ActivationGrid:
    """What `auto` is for one value, in a runtime that has faster products for grids without a zero point."""
    if asked.symmetric != "auto":
        return asked
    below, above = max(-histogram.low, 0.0), max(histogram.high, 0.0)
    symmetric = min(below, above) >= _ABOUT_ALIKE * max(below, above)
    return asked.model_copy(update={"symmetric": symmetric})


def _symmetric(low: float, high: float, levels: int) -> Range:
    """The range of a grid whose zero is its middle integer, or its first where nothing is negative."""
    if low >= 0.0:
        return 0.0, high
    scale = max(-low, high) / (levels // 2 - 1)
    return -(levels // 2) * scale, (levels // 2 - 1) * scale


def _symmetric_mse(histogram: Histogram, levels: int) -> Range:
    low, high = _minmax(histogram)
    values, weights = _distribution(histogram)
    ranges = [_symmetric(low * share, high * share, levels) for share in _CANDIDATES]
    return min(ranges, key=lambda ends: _squared_error(values, weights, ends, levels))


def _power_of_two(histogram: Histogram, ends: Range, levels: int, asked: ActivationGrid) -> Range:
    """The range of about these ends whose scale is a power of two; the zero of a symmetric grid stays where it is."""
    values, weights = _distribution(histogram)
    width = (ends[1] - ends[0]) / (levels - 1)
    exponent = np.ceil(np.log2(width))
    fixed = width if asked.symmetric else None
    ranges = []
    for below in _EXPONENTS:
        scale = float(2.0 ** (exponent - below))
        zero = round(min(max(-ends[0] / (fixed or scale), 0.0), levels - 1.0))
        ranges.append((-zero * scale, (levels - 1 - zero) * scale))
    return min(ranges, key=lambda found: _squared_error(values, weights, found, levels))


def _distribution(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values that occur and how often."""
    used = histogram.counts > 0
    return histogram.centres[used], histogram.counts[used].astype(np.float64)


def _minmax(histogram: Histogram, calibration: Calibration | None = None, levels: int = 0) -> Range:  # noqa: ARG001  one signature for all criteria
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def _percentile(histogram: Histogram, calibration: Calibration, levels: int) -> Range:  # noqa: ARG001  one signature for all criteria
    """Cut half of what is not kept at each end."""
    low, high = _minmax(histogram)
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - calibration.percentile / 100) / 2
    half_bin = histogram.radius / histogram.counts.size
    lower = histogram.centres[np.searchsorted(cumulative, tail, side="right")] - half_bin
    upper = histogram.centres[min(np.searchsorted(cumulative, 1 - tail), cumulative.size - 1)] + half_bin
    return max(low, min(float(lower), 0.0)), min(high, max(float(upper), 0.0))


def _mse(histogram: Histogram, calibration: Calibration, levels: int) -> Range:  # noqa: ARG001  one signature for all criteria
    """Smallest mean squared rounding and clipping error; both ends together first, then each alone."""
    low, high = _minmax(histogram)
    values, weights = _distribution(histogram)

    def error(ends: Range) -> float:
        return _squared_error(values, weights, ends, levels)

    best = min(((low * share, high * share) for share in _CANDIDATES), key=error)
    if low < 0.0 < high:
        low_end, high_end = best
        best = min(((low * share, high_end) for share in _CANDIDATES), key=error)
        low_end = best[0]
        best = min(((low_end, high * share) for share in _CANDIDATES), key=error)
    return best


def _squared_error(values: NDArray[np.float64], weights: NDArray[np.float64], ends: Range, levels: int) -> float:
    scale = max((ends[1] - ends[0]) / (levels - 1), _TINY)
    zero = np.round(-ends[0] / scale)
    integers = np.clip(np.round(values / scale) + zero, 0, levels - 1)
    return float(np.dot(weights, np.square((integers - zero) * scale - values)))


def _entropy(histogram: Histogram, calibration: Calibration, levels: int) -> Range:  # noqa: ARG001  one signature for all criteria
    """Smallest Kullback-Leibler divergence of the rounded from the clipped distribution (Migacz, GTC 2017).

    A value that occurs again and again (the zeros of a ReLU, a background) is no part of the distribution's shape and
    would outweigh it, so it is left out.
    """
    low, high = _minmax(histogram)
    weights = histogram.counts.astype(np.float64)
    weights[weights > _SPIKE * weights.sum()] = 0.0
    used = weights > 0
    if not used.any():
        return low, high
    values, weights = histogram.centres[used], weights[used]
    ends = [(low * share, high * share) for share in _CANDIDATES]
    return min(ends, key=lambda candidate: _divergence(values, weights, candidate, levels))


def _divergence(values: NDArray[np.float64], weights: NDArray[np.float64], ends: Range, levels: int) -> float:
    """KL(P‖Q): in P what is outside lies in the outermost bin inside, in Q each level is spread over its bins."""
    inside = (values >= ends[0]) & (values <= ends[1])
    if inside.sum() < levels:
        return float("inf")
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = weights[first : last + 1]
    clipped = kept.copy()
    clipped[0] += weights[:first].sum()
    clipped[-1] += weights[last + 1 :].sum()
    width = max(ends[1] - ends[0], _TINY)
    level = np.round((values[first : last + 1] - ends[0]) / width * (levels - 1)).astype(np.int64)
    mass = np.bincount(level, weights=kept, minlength=levels)
    bins = np.bincount(level, minlength=levels)
    rounded = (mass / np.maximum(bins, 1))[level]
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    return float(np.sum(p * np.log(p / np.maximum(q, _TINY))))


_CRITERIA: Mapping[str, Callable[[Histogram, Calibration, int], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
