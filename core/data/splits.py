"""Which rows of which array belong to train, calibration, validation and evaluation."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from core.data.columns import Rows
from core.data.wiring import Samples
from core.description import FractionSplits, GivenSplits, SplitArrays, SplitName
from core.errors import ModelpressError

# Validation that is not given is this share of train, at most so many rows.
VALIDATION_SHARE = 0.1
VALIDATION_MOST = 5000
GIVEN_SPLITS_SEED = 0
ROUNDING = 1e-6
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Split:
    """Samples, and the rows of them that belong to the split, in the order in which they are read."""

    samples: Samples
    rows: Rows


def key_of(arrays: SplitArrays) -> str:
    """One key for the same arrays, whatever splits they are in."""
    return arrays.model_dump_json(include={"x", "y", "pair"})


def draw_splits(splits: GivenSplits | FractionSplits, samples: Mapping[str, Samples]) -> dict[SplitName, Split]:
    """The splits that are given or drawn by fractions, and those drawn from train; `samples` by `key_of`.

    Calibration and validation that are not given come from train, never from evaluation: validation leaves train,
    calibration is all that stays, in a shuffled order, so that its first rows are a fair sample.
    """
    if isinstance(splits, FractionSplits):
        seed = splits.seed
        whole = samples[key_of(splits)]
        drawn = {name: Split(whole, rows) for name, rows in _draw_fractions(splits, whole).items()}
    else:
        seed = GIVEN_SPLITS_SEED
        drawn = {name: _whole(samples[key_of(arrays)]) for name, arrays in splits.items()}
    train = drawn.get("train")
    if train is not None:
        shuffled = np.random.default_rng(seed).permutation(train.rows)
        if "validation" not in drawn:
            size = min(int(len(shuffled) * VALIDATION_SHARE), VALIDATION_MOST)
            drawn["validation"] = Split(train.samples, shuffled[:size])
            shuffled = shuffled[size:]
            drawn["train"] = Split(train.samples, shuffled)
        if "calibration" not in drawn:
            drawn["calibration"] = Split(train.samples, shuffled)
    kept = {name: drawn[name] for name in get_args(SplitName) if name in drawn and len(drawn[name].rows)}
    if not kept:
        raise ModelpressError("invalid_data", "No split has a sample.")
    return kept


def _whole(samples: Samples) -> Split:
    return Split(samples, np.arange(len(samples), dtype=np.int64))


def _draw_fractions(splits: FractionSplits, samples: Samples) -> dict[SplitName, Rows]:
    """Train from the front of one order of the rows, validation after it, evaluation from its end."""
    fractions = splits.fractions
    if any(not 0 <= share <= 1 for share in fractions.values()) or sum(fractions.values()) > 1 + ROUNDING:
        raise ModelpressError(
            "invalid_data", "The fractions of the splits must be from 0 to 1 and add up to at most 1."
        )
    if splits.by == "content":
        return _divide_by_content(splits, samples)
    count = len(samples)
    order = np.random.default_rng(splits.seed).permutation(count).astype(np.int64)
    evaluation = min(round(fractions.get("evaluation", 0) * count), count)
    rest = count - evaluation
    validation = min(round(fractions.get("validation", 0) * count), rest)
    train = min(round(fractions["train"] * count), rest - validation) if "train" in fractions else rest - validation
    drawn: dict[SplitName, Rows] = {"train": order[:train], "evaluation": order[rest:]}
    if "validation" in fractions:
        drawn["validation"] = order[train : train + validation]
    return drawn


def _divide_by_content(splits: FractionSplits, samples: Samples) -> dict[SplitName, Rows]:
    """The hash of a sample is its place in [0, 1): evaluation takes the end, validation what lies before it."""
    rows = np.arange(len(samples), dtype=np.int64)
    salt = splits.seed.to_bytes(16, "little", signed=True)
    digests = b"".join(
        hashlib.blake2b(content, digest_size=HASH_BYTES, salt=salt).digest() for content in samples.contents(rows)
    )
    places = np.frombuffer(digests, "<u8") / 2.0**64
    order = np.argsort(places, kind="stable").astype(np.int64)
    end = 1 - splits.fractions.get("evaluation", 0)
    middle = end - splits.fractions.get("validation", 0)
    first, second, third = np.searchsorted(places[order], [splits.fractions.get("train", middle), middle, end])
    drawn: dict[SplitName, Rows] = {"train": order[: min(first, second)], "evaluation": order[third:]}
    if "validation" in splits.fractions:
        drawn["validation"] = order[second:third]
    return drawn
