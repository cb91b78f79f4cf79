"""One option for each layer so that the costs together are least and the sizes together stay within a budget."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The solver's tolerances are absolute: all costs of a solution together are scaled to this, all sizes to the budget.
_COST: Final = 1e4
_SIZE: Final = 1e4
# How often the budget is tightened where the solver's tolerance let it be exceeded.
_TRIES: Final = 8
_NODES: Final = 20_000
# Of what sums of floats may be off.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Allocation:
    """For each layer the number of its option, and the sums of cost and size."""

    choices: tuple[int, ...]
    cost: float
    size: float


@dataclass(frozen=True)
class Options:
    """Of each layer (rows) and option: a cost, and a size in the unit of the budget; a cost that is no number is none.

    Raises ValueError for a layer without a finite cost.
    """

    costs: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for number, costs in enumerate(self.costs):
            if not any(math.isfinite(cost) for cost in costs):
                raise ValueError(f"no option of layer {number} has a finite cost")

    def smallest(self) -> Allocation:
        """What takes least."""
        return self.total([options[0] for options in self.useful()])

    def largest(self) -> Allocation:
        """What costs least, in the least size."""
        return self.total([options[-1] for options in self.useful()])

    def total(self, choices: Sequence[int]) -> Allocation:
        """The sums of the chosen options."""
        cost = math.fsum(self.costs[row][option] for row, option in enumerate(choices))
        return Allocation(
            tuple(choices), cost, math.fsum(self.sizes[row][option] for row, option in enumerate(choices))
        )

    def useful(self) -> list[list[int]]:
        """Of each layer the options that no other beats in both, from the smallest on."""
        found = []
        for row in range(len(self.costs)):
            kept: list[int] = []
            for option in sorted(self._open(row), key=lambda each: (self.sizes[row][each], self.costs[row][each])):
                if not kept or self.costs[row][option] < self.costs[row][kept[-1]]:
                    kept.append(option)
            found.append(kept)
        return found

    def _open(self, row: int) -> list[int]:
        return [option for option, cost in enumerate(self.costs[row]) if math.isfinite(cost)]


def allocate(options: Options, budget: float) -> Allocation | None:
    """The exact optimum of the multiple-choice knapsack as an integer programme; None where nothing fits.

    Sensitivities under a budget as in HAWQ-V3 (Yao et al. 2021, arXiv 2011.10680, section 3.4), solved by HiGHS.
    """
    useful = options.useful()
    if options.smallest().size > budget:
        return None
    best = _climb(options, useful, budget)
    if best.cost <= math.fsum(min(options.costs[row][option] for option in kept) for row, kept in enumerate(useful)):
        return best
    left = _prune(options, useful, budget, best.cost)
    limit = budget
    for _ in range(_TRIES):
        if all(len(row) == 1 for row in left):
            found: Allocation | None = options.total([row[0] for row in left])
        else:
            found = _solve(options, left, limit, scale=_COST / best.cost)
        if found is None:
            return best
        if found.size <= budget:
            return min(best, found, key=lambda each: (each.cost, each.size))
        limit -= (found.size - budget) * (1 + 1e-9)
    return best


def trace_curve(options: Options, points: int) -> tuple[Allocation, ...]:
    """The least cost at budgets from the smallest size to the largest, at equal ratios; without repetitions."""
    low, high = options.smallest().size, options.largest().size
    budgets = [low * (high / low) ** (point / (points - 1)) for point in range(points - 1)] if low > 0 else []
    found = [allocate(options, budget * (1 + 1e-12)) for budget in (*budgets, high)]
    return tuple(dict.fromkeys(each for each in found if each is not None))


def _climb(options: Options, useful: list[list[int]], budget: float) -> Allocation:
    """A start: from the smallest options on, the step that takes off most cost for its size, as long as one fits."""
    places = [0] * len(useful)
    size = math.fsum(options.sizes[row][kept[0]] for row, kept in enumerate(useful))
    while True:
        steps = []
        for row, kept in enumerate(useful):
            for place in range(places[row] + 1, len(kept)):
                more = options.sizes[row][kept[place]] - options.sizes[row][kept[places[row]]]
                less = options.costs[row][kept[places[row]]] - options.costs[row][kept[place]]
                if size + more <= budget:
                    steps.append((less / more if more > 0 else math.inf, -row, -place))
        if not steps:
            return options.total([kept[place] for kept, place in zip(useful, places, strict=True)])
        _, row, place = max(steps)
        places[-row] = -place
        size = math.fsum(options.sizes[each][kept[places[each]]] for each, kept in enumerate(useful))


def _prune(options: Options, useful: list[list[int]], budget: float, best: float) -> list[list[int]]:
    """The options that can be part of anything that costs less than `best`, by the bound of a price on size.

    At a price p nothing within the budget costs less than Σ min(cost + p·size) − p·budget.
    """
    price = _price(options, useful, budget)
    told = [
        [options.costs[row][each] + price * options.sizes[row][each] for each in kept]
        for row, kept in enumerate(useful)
    ]
    least = [min(row) for row in told]
    gap = best - (math.fsum(least) - price * budget)
    slack = gap + _ROUNDING * (abs(best) + abs(price * budget))
    return [
        [option for option, each in zip(kept, row, strict=True) if each - low <= slack]
        for kept, row, low in zip(useful, told, least, strict=True)
    ]


def _price(options: Options, useful: list[list[int]], budget: float) -> float:
    """The lowest price on size at which each layer's cheapest option together fits."""
    slopes = sorted(
        {
            (options.costs[row][one] - options.costs[row][other])
            / (options.sizes[row][other] - options.sizes[row][one])
            for row, kept in enumerate(useful)
            for place, one in enumerate(kept)
            for other in kept[place + 1 :]
        }
        | {0.0}
    )

    def fits(price: float) -> bool:
        total = 0.0
        for row, kept in enumerate(useful):
            # Of equal ones the smallest, which comes first.
            chosen = min(kept, key=lambda each: options.costs[row][each] + price * options.sizes[row][each])
            total += options.sizes[row][chosen]
        return total <= budget

    place = bisect_left(range(len(slopes) - 1), True, key=lambda each: fits(slopes[each]))
    return slopes[place]


def _solve(options: Options, useful: list[list[int]], limit: float, *, scale: float) -> Allocation | None:
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415  takes most of a second

    pairs = [(row, option) for row, kept in enumerate(useful) for option in kept]
    costs = np.array([options.costs[row][option] for row, option in pairs]) * scale
    sizes = np.array([options.sizes[row][option] for row, option in pairs])
    unit = (abs(limit) or float(np.abs(sizes).max()) or 1.0) / _SIZE
    one_each: NDArray[np.float64] = np.zeros((len(useful), len(pairs)))
    for column, (row, _) in enumerate(pairs):
        one_each[row, column] = 1.0
    found = milp(
        costs,
        integrality=np.ones(len(pairs), dtype=np.uint8),
        bounds=Bounds(0.0, 1.0),
        constraints=[
            LinearConstraint(one_each, 1.0, 1.0),
            LinearConstraint(sizes[np.newaxis] / unit, -np.inf, limit / unit),
        ],
        options={"mip_rel_gap": 0.0, "node_limit": _NODES, "presolve": True},
    )
    if found.x is None:
        return None
    chosen = {pairs[column][0]: pairs[column][1] for column in np.flatnonzero(found.x > 0.5)}
    return options.total([chosen[row] for row in range(len(useful))])
