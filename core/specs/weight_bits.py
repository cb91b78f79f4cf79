"""How many bits a stored weight takes, as a range: what the dry run counts with."""

import math
from collections.abc import Collection
from typing import Final

# At least and at most, where the exact number depends on shapes or on what the step chooses.
Bits = tuple[float, float]

BYTE: Final = 8.0
FLOAT: Final = 32.0
# Where the weights are that a mask keeps: a bit a weight at most.
_POSITION_BITS = 1.0
# A scale and a zero point of one byte.
_SCALE_BITS = 40.0
# What scales of channels, tables and the last byte of small layers come to, as a share of the weights.
_BESIDE = 0.08


def packed(bits: float, group: int | None = None) -> Bits:
    """A weight of so many bits; `group` weights in a row share a scale, else those of a channel do."""
    return bits, bits * (1 + _BESIDE) + (0.0 if group is None else _SCALE_BITS / group)


def stacked(found: Collection[Bits]) -> Bits:
    """What steps of different families leave of one weight together, each of which saves its share.

    The most is what the best of them leaves; where another is a mask, its positions come on top.
    """
    low = FLOAT * math.prod(least / FLOAT for least, _ in found)
    return low, min(most for _, most in found) + (_POSITION_BITS if len(found) > 1 else 0.0)
