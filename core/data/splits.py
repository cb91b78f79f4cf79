"""Which rows of which array belong to train, calibration, validation and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from core.description import DatasetSpec, FractionSplits, SplitArrays, SplitName
from core.errors import ModelpressError

# Validation that is not given is this share of train, at most so many rows.
VALIDATION_SHARE = 0.1
VALIDATION_MOST = 5000
GIVEN_SPLITS_SEED = 0
ROUNDING = 1e-6

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SplitRows:
    """One split: the names of its arrays and its rows, in the order in which they are read."""

    x: str
    y: str | None
    rows: Rows


def draw_splits(spec: DatasetSpec, count: Callable[[str], int]) -> dict[SplitName, SplitRows]:
    """The splits that are given or drawn by seeded fractions, and those drawn from train; `count` is of rows by array.

    Calibration and validation that are not given come from train, never from evaluation: validation leaves train,
    calibration is all that stays, in a shuffled order, so that its first rows are a fair sample.
    """
    if isinstance(spec.splits, FractionSplits):
        seed = spec.splits.seed
        splits = _draw_fractions(spec.splits, count(spec.splits.x))
    else:
        seed = GIVEN_SPLITS_SEED
        splits = {name: _whole(arrays, count(arrays.x)) for name, arrays in spec.splits.items()}
    train = splits.get("train")
    if train is not None:
        shuffled = np.random.default_rng(seed).permutation(train.rows)
        if "validation" not in splits:
            size = min(int(len(shuffled) * VALIDATION_SHARE), VALIDATION_MOST)
            splits["validation"] = SplitRows(train.x, train.y, shuffled[:size])
            shuffled = shuffled[size:]
            splits["train"] = SplitRows(train.x, train.y, shuffled)
        if "calibration" not in splits:
            splits["calibration"] = SplitRows(train.x, train.y, shuffled)
    kept = {name: splits[name] for name in get_args(SplitName) if name in splits and len(splits[name].rows)}
    if not kept:
        raise ModelpressError("invalid_data", "No split has a sample.")
    return kept


def _whole(arrays: SplitArrays, count: int) -> SplitRows:
    return SplitRows(arrays.x, arrays.y, np.arange(count, dtype=np.int64))


def _draw_fractions(splits: FractionSplits, count: int) -> dict[SplitName, SplitRows]:
    """Train from the front of one permutation, validation after it, evaluation from its end."""
    fractions = splits.fractions
    if any(not 0 <= share <= 1 for share in fractions.values()) or sum(fractions.values()) > 1 + ROUNDING:
        raise ModelpressError(
            "invalid_data", "The fractions of the splits must be from 0 to 1 and add up to at most 1."
        )
    order = np.random.default_rng(splits.seed).permutation(count).astype(np.int64)
    evaluation = min(round(fractions.get("evaluation", 0) * count), count)
    rest = count - evaluation
    validation = min(round(fractions.get("validation", 0) * count), rest)
    train = min(round(fractions["train"] * count), rest - validation) if "train" in fractions else rest - validation
    drawn: dict[SplitName, Rows] = {"train": order[:train], "evaluation": order[rest:]}
    if "validation" in fractions:
        drawn["validation"] = order[train : train + validation]
    return {name: SplitRows(splits.x, splits.y, rows) for name, rows in drawn.items()}
