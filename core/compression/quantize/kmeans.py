"""Optimal k-means on a line: the few values that stand for many numbers with the least squared error.

Clusters of sorted numbers are intervals, so that a dynamic programme over their borders finds the optimum (Grønlund et
al. 2017, arXiv 1701.07204). It is solved exactly for borders among a thousand or two of well spread places, then by
programmes in which each border moves in a window about its place, in ever finer steps down to single numbers.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from core.errors import ModelpressError

Numbers = NDArray[np.float32] | NDArray[np.float64]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]

# Beyond so many distinct numbers neighbours form groups, but for so many at each end.
_MOST_NUMBERS, _ENDS = 1 << 20, 1 << 12
# Places of borders that the exact programme is solved on: at least, for each value asked for, and at most; how many
# times the mean number of places a cluster may take at first.
_PLACES, _PLACES_A_VALUE, _MOST_PLACES = 512, 16, 2048
_WIDE = 16
# How often places that crowded numbers cannot use are given to others.
_ROUNDS = 4
# Steps to either side that a border may take at once, how much finer steps become, how often windows may move, and the
# share of the error that a pass must be worth.
_REACH = 6
_FINER = 3
_MOST_PASSES = 64
_LEAST_GAIN = 1e-7
# The least weight of a number, as a share of the mean: who has none must not end up anywhere.
_LEAST_WEIGHT = 1e-6


@final
@dataclass(frozen=True)
class _Line:
    """Distinct numbers, or means of groups, in order (n,); before each the sums of weights and their moments."""

    numbers: Floats
    weight: Floats
    first: Floats
    second: Floats

    @classmethod
    def of(cls, numbers: Numbers, weights: Floats | None) -> "_Line":
        order = None if weights is None else np.argsort(numbers)
        ordered = (np.sort(numbers) if order is None else numbers[order]).astype(np.float64)
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        begins = begins[_thin(len(begins))]
        if weights is None or order is None:
            mass = np.diff(begins, append=len(ordered)).astype(np.float64)
            means = np.add.reduceat(ordered, begins) / mass
            centred = ordered - np.average(means, weights=mass)
            squares = np.add.reduceat(centred * centred, begins)
        else:
            heavy = np.maximum(weights[order], _LEAST_WEIGHT * weights.mean() or 1.0)
            mass = np.add.reduceat(heavy, begins)
            means = np.add.reduceat(heavy * ordered, begins) / mass
            centred = ordered - np.average(means, weights=mass)
            squares = np.add.reduceat(heavy * centred * centred, begins)
        # About their mean, so that the difference of sums of squares keeps its digits.
        first = mass * (means - np.average(means, weights=mass))
        return cls(means, _sums(mass), _sums(first), _sums(squares))

    def cost(self, begin: Places, end: Places) -> Floats:
        """The weighted squared error of the numbers begin … end − 1 about their mean; infinite where there are none."""
        weight = self.weight[end] - self.weight[begin]
        first = self.first[end] - self.first[begin]
        filled = end > begin
        error = self.second[end] - self.second[begin] - first * first / np.where(filled, weight, 1.0)
        found: Floats = np.where(filled, np.maximum(error, 0.0), np.inf)
        return found

    def means(self, borders: Places) -> Floats:
        """The mean of each cluster, whose borders (k + 1,) go from 0 to n."""
        centre = self.numbers[0] - self._centred(0)
        found: Floats = np.diff(self.first[borders]) / np.diff(self.weight[borders]) + centre
        return found

    def _centred(self, place: int) -> float:
        return float((self.first[place + 1] - self.first[place]) / (self.weight[place + 1] - self.weight[place]))


def cluster(numbers: Numbers, count: int, weights: Floats | None = None) -> Floats:
    """The at most `count` values, ascending, with the least squared error; fewer where there are fewer numbers.

    `weights` (n,), zero or more, weigh the errors of `numbers` (n,). Raises `non_finite`.
    """
    for given in (numbers, weights):
        if given is not None and not np.isfinite(given).all():
            raise ModelpressError("non_finite", "Weights that are NaN or infinite cannot be grouped into few values.")
    line = _Line.of(numbers, weights)
    total = len(line.numbers)
    if total <= count:
        return line.numbers
    places = _choose_places(line, count)
    # Numbers that next to the others are all alike leave fewer places than clusters were asked for.
    count = min(count, len(places) - 1)
    borders = _solve(line, places, count)
    if len(places) <= total and count > 1:
        borders = _refine(line, borders)
    return line.means(borders)


def _thin(count: int) -> Places:
    """Which of so many numbers begin a group that no border divides: all, of very many those of both ends and some."""
    if count <= _MOST_NUMBERS:
        return np.arange(count, dtype=np.int64)
    inner = np.linspace(_ENDS, count - _ENDS, _MOST_NUMBERS - 2 * _ENDS).astype(np.int64)
    ends = np.arange(_ENDS, dtype=np.int64)
    return np.unique(np.concatenate([ends, inner, ends + count - _ENDS]))


def _sums(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _choose_places(line: _Line, values: int) -> Places:
    """Where borders may lie at first: all places of few numbers, else as dense as the cube root of the density.

    That is how the best values lie where they are many (Panter and Dite 1951). A place cannot be taken twice, so that
    numbers far from their neighbours get no more than theirs and leave the rest to the others.
    """
    total = len(line.numbers)
    count = min(max(_PLACES, _PLACES_A_VALUE * values), _MOST_PLACES)
    if total <= count:
        return np.arange(total + 1, dtype=np.int64)
    gap = np.diff(line.numbers, append=line.numbers[-1])
    share = np.cbrt(np.diff(line.weight) * gap * gap)
    for _ in range(_ROUNDS):
        share = np.minimum(share, share.sum() / count)
    summed = _sums(share)
    spread = np.searchsorted(summed, np.linspace(0.0, summed[-1], count + 1))
    return np.unique(np.concatenate([[0, total], np.minimum(spread, total)]))


def _solve(line: _Line, places: Places, count: int) -> Places:
    """The best borders (count + 1,) among `places`: a programme that adds a cluster a step.

    Clusters take a bounded number of places; where one of the best takes as many, the bound is doubled.
    """
    last = len(places) - 1
    width = min(-(-_WIDE * last // count), last)
    while True:
        chosen = _solve_within(line, places, count, width)
        if width == last or np.diff(chosen).max() < width:
            return places[chosen]
        width = min(2 * width, last)


def _solve_within(line: _Line, places: Places, count: int, width: int) -> Places:
    """The best borders, as positions among `places`, of clusters of at most `width` places."""
    last = len(places) - 1
    begins = np.arange(last + 1)[:, None] + np.arange(-width, 0)
    costs = np.where(begins >= 0, line.cost(places[np.maximum(begins, 0)], places[:, None]), np.inf)
    rows = np.arange(last + 1)
    choices = np.zeros((count, last + 1), dtype=np.int64)
    # Infinities stand before the first place for clusters that would begin there.
    best = np.full(width + last + 1, np.inf)
    best[width] = 0.0
    for step in range(count):
        reached = costs + np.lib.stride_tricks.sliding_window_view(best, width)[:-1]
        found = reached.argmin(1)
        choices[step] = begins[rows, found]
        best[width:] = reached[rows, found]
    borders = [last]
    for step in range(count - 1, -1, -1):
        borders.append(int(choices[step, borders[-1]]))
    return np.array(borders[::-1])


def _refine(line: _Line, borders: Places) -> Places:
    """Borders moved to the best of some places about each, closer and closer, until none has better ones beside it."""
    steps = np.arange(-_REACH, _REACH + 1, dtype=np.int64)
    total, error, finer = len(line.numbers), np.inf, _REACH
    for _ in range(_MOST_PASSES):
        # About as wide as the clusters on both sides at first.
        strides = np.maximum((borders[2:] - borders[:-2]) // (2 * finer), 1)
        offered = np.clip(borders[1:-1, None] + strides[:, None] * steps, 1, total - 1)
        chosen, now = _choose(line, offered)
        borders = np.concatenate([[0], offered[np.arange(len(offered)), chosen], [total]])
        if error - now <= _LEAST_GAIN * now:
            if (strides == 1).all():
                break
            finer *= _FINER
        error = now
    return borders


def _choose(line: _Line, offered: Places) -> tuple[Places, float]:
    """Which of the places offered for each inner border (borders, places) are best together, and the error then."""
    inner, width = offered.shape
    between = line.cost(offered[:-1, :, None], offered[1:, None, :]) if inner > 1 else np.empty((0, width, width))
    best = line.cost(np.zeros_like(offered[0]), offered[0])
    choices = np.empty((inner, width), dtype=np.int64)
    for border in range(1, inner):
        reached = best[:, None] + between[border - 1]
        choices[border] = reached.argmin(0)
        best = reached.min(0)
    best = best + line.cost(offered[-1], np.full(width, len(line.numbers)))
    chosen = np.empty(inner, dtype=np.int64)
    chosen[-1] = best.argmin()
    for border in range(inner - 1, 0, -1):
        chosen[border - 1] = choices[border, chosen[border]]
    return chosen, float(best.min())
