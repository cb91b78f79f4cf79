"""What makes data unusable, told with the row and the reason."""

import numpy as np

from core.data.npz import Array
from core.data.transform import Transform
from core.description import TensorDescription
from core.errors import ModelpressError

CHUNK_ELEMENTS = 1 << 22


def check_pairing(name: str, x: Array, y: Array | None) -> None:
    """Raise `invalid_data` unless there is one label for each sample."""
    if y is not None and len(x) != len(y):
        raise ModelpressError("invalid_data", f"`{name}` has {len(x):,} samples but there are {len(y):,} labels.")


def check_samples(name: str, x: Array, transform: Transform, wanted: TensorDescription | None) -> None:
    """Raise `invalid_data` unless the samples have the shape and type that the model wants and are finite."""
    transform.check(x.shape)
    shape = transform.sample_shape(x.shape)
    if wanted is not None and not _fits(shape, wanted.shape[1:]):
        raise ModelpressError(
            "invalid_data",
            f"A sample of `{name}` has shape {shape} after layout {transform.mapping.layout}; "
            f"input `{wanted.name}` of the model wants {wanted.shape[1:]}.",
            hint="Set `layout` of the input in the data set, or shape the array as the model wants it.",
        )
    if not transform.dtype.is_floating_point and x.dtype.kind not in "iu":
        raise ModelpressError("invalid_data", f"Input of the model is integer; array `{name}` holds {x.dtype}.")
    _check_finite(name, x)


def check_labels(name: str, y: Array, task: str, outputs: tuple[TensorDescription, ...] | None) -> int | None:
    """The number of classes or tokens that the labels need; raises `invalid_data` naming the first bad row."""
    if task in ("regression", "none"):
        _check_finite(name, y)
        return None
    if y.dtype.kind not in "iu":
        raise ModelpressError("invalid_data", f"Labels `{name}` hold {y.dtype}; class numbers are needed.")
    if task == "classification" and y.ndim != 1:
        raise ModelpressError(
            "invalid_data", f"Labels `{name}` have shape {y.shape}; one class number for each sample is needed."
        )
    last = outputs[0].shape[-1] if outputs and outputs[0].shape else None
    limit = last if isinstance(last, int) else None
    largest = 0
    for start, chunk in _chunks(y):
        bad = (chunk < 0) if limit is None else (chunk < 0) | (chunk >= limit)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            allowed = "0 or more" if limit is None else f"from 0 to {limit - 1}"
            raise ModelpressError(
                "invalid_data",
                f"Label {chunk[bad][0]} in row {start + row} of `{name}` is not allowed: it must be {allowed}.",
            )
        largest = max(largest, int(chunk.max(initial=0)))
    return largest + 1


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == have for have, size in zip(shape, wanted, strict=True)
    )


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    for start, chunk in _chunks(array):
        # What overflows fp32 is as useless to the network as an infinity.
        with np.errstate(over="ignore"):
            finite = np.isfinite(chunk.astype(np.float32)).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ModelpressError("invalid_data", f"Row {row} of `{name}` has a NaN or an infinity.")


def _chunks(array: Array) -> "list[tuple[int, Array]]":
    rows = max(1, CHUNK_ELEMENTS // max(1, int(np.prod(array.shape[1:]))))
    return [(start, array[start : start + rows]) for start in range(0, len(array), rows)]
