"""Which range of an activation the 256 integers should span, chosen from its histogram."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from core.compression.quantize.observers import Histogram
from core.specs.calibration import Calibration

LEVELS = 256
_CANDIDATES = np.linspace(1.0, 0.3, 71)
# A bin that alone holds more than this share is one value, not a piece of a distribution.
_SPIKE = 0.01
_TINY = 1e-12

Range = tuple[float, float]


def choose_range(histogram: Histogram, calibration: Calibration) -> Range:
    """The range by the criterion of `calibration.method`; it always holds zero."""
    if not histogram.counts.any():
        return 0.0, 0.0
    return _CRITERIA[calibration.method](histogram, calibration)


def _minmax(histogram: Histogram, calibration: Calibration | None = None) -> Range:  # noqa: ARG001  one signature for all criteria
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def _percentile(histogram: Histogram, calibration: Calibration) -> Range:
    """Cut half of what is not kept at each end."""
    low, high = _minmax(histogram)
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - calibration.percentile / 100) / 2
    half_bin = histogram.radius / histogram.counts.size
    lower = histogram.centres[np.searchsorted(cumulative, tail, side="right")] - half_bin
    upper = histogram.centres[min(np.searchsorted(cumulative, 1 - tail), cumulative.size - 1)] + half_bin
    return max(low, min(float(lower), 0.0)), min(high, max(float(upper), 0.0))


def _mse(histogram: Histogram, calibration: Calibration) -> Range:  # noqa: ARG001  one signature for all criteria
    """Smallest mean squared rounding and clipping error; both ends together first, then each alone."""
    low, high = _minmax(histogram)
    used = histogram.counts > 0
    values, weights = histogram.centres[used], histogram.counts[used].astype(np.float64)

    def error(ends: Range) -> float:
        return _squared_error(values, weights, ends)

    best = min(((low * share, high * share) for share in _CANDIDATES), key=error)
    if low < 0.0 < high:
        low_end, high_end = best
        best = min(((low * share, high_end) for share in _CANDIDATES), key=error)
        low_end = best[0]
        best = min(((low_end, high * share) for share in _CANDIDATES), key=error)
    return best


def _squared_error(values: NDArray[np.float64], weights: NDArray[np.float64], ends: Range) -> float:
    scale = max((ends[1] - ends[0]) / (LEVELS - 1), _TINY)
    zero = np.round(-ends[0] / scale)
    integers = np.clip(np.round(values / scale) + zero, 0, LEVELS - 1)
    return float(np.dot(weights, np.square((integers - zero) * scale - values)))


def _entropy(histogram: Histogram, calibration: Calibration) -> Range:  # noqa: ARG001  one signature for all criteria
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
    return min(ends, key=lambda candidate: _divergence(values, weights, candidate))


def _divergence(values: NDArray[np.float64], weights: NDArray[np.float64], ends: Range) -> float:
    """KL(P‖Q): in P what is outside lies in the outermost bin inside, in Q each level is spread over its bins."""
    inside = (values >= ends[0]) & (values <= ends[1])
    if inside.sum() < LEVELS:
        return float("inf")
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = weights[first : last + 1]
    clipped = kept.copy()
    clipped[0] += weights[:first].sum()
    clipped[-1] += weights[last + 1 :].sum()
    width = max(ends[1] - ends[0], _TINY)
    level = np.round((values[first : last + 1] - ends[0]) / width * (LEVELS - 1)).astype(np.int64)
    mass = np.bincount(level, weights=kept, minlength=LEVELS)
    bins = np.bincount(level, minlength=LEVELS)
    rounded = (mass / np.maximum(bins, 1))[level]
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    return float(np.sum(p * np.log(p / np.maximum(q, _TINY))))


_CRITERIA: Mapping[str, Callable[[Histogram, Calibration], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
