"""The largest share that a budget allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

# Halvings of the range: the share is found to 1/16,384.
_HALVINGS = 14


@final
@dataclass(frozen=True)
class Found:
    """A share, what is left with it in the unit of the budget, and whether that is no more than was asked for."""

    share: float
    cost: int
    reached: bool


def largest_share(cost: Callable[[float], int], most: float) -> Found:
    """The largest share below 1 whose `cost` is at most `most`; the smallest there is where none is.

    `cost` is tried, so that it may rise unevenly; what is given back was tried itself.
    """
    low, high = 2.0**-_HALVINGS, 1.0
    paid = cost(low)
    if paid > most:
        return Found(low, paid, reached=False)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        now = cost(middle)
        if now <= most:
            low, paid = middle, now
        else:
            high = middle
    return Found(low, paid, reached=True)
