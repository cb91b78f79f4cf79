"""What makes data unusable, told with the row and the reason."""

import math

import numpy as np
from numpy.typing import NDArray

from core.data.columns import Array, Column, chunks
from core.data.tokens import IGNORED, UncutTexts
from core.data.transform import Transform
from core.description import TensorDescription
from core.errors import ModelpressError

NO_CLASSES = ("regression", "embedding", "none")


def check_pairing(name: str, x: int, y: int, what: str = "labels") -> None:
    """Raise `invalid_data` unless there is one label, or one other side, for each sample."""
    if x != y:
        raise ModelpressError("invalid_data", f"`{name}` has {x:,} samples but there are {y:,} {what}.")


def check_samples(name: str, x: Column, transform: Transform, wanted: TensorDescription | None) -> None:
    """Raise `invalid_data` unless the samples have the shape and type that the model wants and are finite.

    What is made by decoding is not read here.
    """
    if isinstance(x, UncutTexts):
        return
    transform.check(x.shape)
    shape = transform.sample_shape(x.shape)
    if wanted is not None and not _fits(shape, wanted.sample_shape):
        raise ModelpressError(
            "invalid_data",
            f"A sample of `{name}` has shape {shape} after layout {transform.mapping.layout}; "
            f"input `{wanted.name}` of the model wants {wanted.sample_shape}.",
            hint="Set `layout` of the input in the data set, or shape the array as the model wants it.",
        )
    if not transform.dtype.is_floating_point and x.dtype.kind not in "iu":
        raise ModelpressError("invalid_data", f"Input of the model is integer; array `{name}` holds {x.dtype}.")
    if not x.is_made:
        _check_finite(name, x)


def check_labels(name: str, y: Column, task: str, outputs: tuple[TensorDescription, ...] | None) -> int | None:
    """The number of classes or tokens that the labels need; raises `invalid_data` naming the first bad row.

    Labels that are made by tokenising are checked as they are read.
    """
    if isinstance(y, UncutTexts):
        return None
    if task in NO_CLASSES:
        _check_values(name, y, task, outputs)
        return None
    if y.dtype.kind not in "iub":
        raise ModelpressError("invalid_data", f"Labels `{name}` hold {y.dtype}; class numbers are needed.")
    wanted = {"classification": 1, "multi_label": 2, "token_classification": 2}.get(task)
    if wanted is not None and len(y.shape) != wanted:
        each = "one class number" if task == "classification" else "a row of numbers"
        raise ModelpressError(
            "invalid_data", f"Labels `{name}` have shape {y.shape}; {each} for each sample is needed."
        )
    limit = label_limit(outputs)
    if task == "multi_label":
        return _check_many(name, y, limit)
    return None if y.is_made else _check_classes(name, y, limit, task)


def label_limit(outputs: tuple[TensorDescription, ...] | None) -> int | None:
    """How many classes the first output tells apart; None when that is free or not known."""
    last = outputs[0].shape[-1] if outputs and outputs[0].shape else None
    return last if isinstance(last, int) else None


def is_no_class(labels: Array, limit: int | None, task: str) -> NDArray[np.bool_]:
    """Of each label whether it is no class number."""
    bad: NDArray[np.bool_] = (labels < 0) if limit is None else (labels < 0) | (labels >= limit)
    return bad & (labels != IGNORED) if task == "token_classification" else bad


def _check_classes(name: str, y: Column, limit: int | None, task: str) -> int:
    largest = 0
    for start, chunk in chunks(y):
        bad = is_no_class(chunk, limit, task)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            allowed = "0 or more" if limit is None else f"from 0 to {limit - 1}"
            raise ModelpressError(
                "invalid_data",
                f"Label {chunk[bad][0]} in row {start + row} of `{name}` is not allowed: it must be {allowed}.",
            )
        largest = max(largest, int(chunk.max(initial=0)))
    return largest + 1


def _check_many(name: str, y: Column, limit: int | None) -> int:
    if limit is not None and y.shape[1] != limit:
        raise ModelpressError(
            "invalid_data", f"Labels `{name}` tell {y.shape[1]} classes apart; the model tells {limit}."
        )
    for start, chunk in chunks(y):
        if (bad := (chunk != 0) & (chunk != 1)).any():
            row = start + int(np.argwhere(bad)[0][0])
            raise ModelpressError("invalid_data", f"Row {row} of `{name}` has {chunk[bad][0]}; 0 or 1 is needed.")
    return y.shape[1]


def _check_values(name: str, y: Column, task: str, outputs: tuple[TensorDescription, ...] | None) -> None:
    if task == "embedding" and len(y.shape) != 1:
        raise ModelpressError("invalid_data", f"Scores `{name}` have shape {y.shape}; one a pair is needed.")
    sizes = outputs[0].shape[1:] if task == "regression" and outputs and outputs[0].shape else ("free",)
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes) and math.prod(known) != math.prod(y.shape[1:]):
        raise ModelpressError(
            "invalid_data",
            f"Labels `{name}` have {math.prod(y.shape[1:])} values a sample; the model gives {math.prod(known)}.",
        )
    _check_finite(name, y)


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == have for have, size in zip(shape, wanted, strict=True)
    )


def _check_finite(name: str, column: Column) -> None:
    if column.dtype.kind != "f":
        return
    for start, chunk in chunks(column):
        # What overflows fp32 is as useless to the network as an infinity.
        with np.errstate(over="ignore"):
            finite = np.isfinite(chunk.astype(np.float32, copy=False)).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ModelpressError("invalid_data", f"Row {row} of `{name}` has a NaN or an infinity.")
