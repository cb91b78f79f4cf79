"""Columns of numbers side by side, one row a sample: what a table holds for a network with one vector as input."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.data.columns import FileColumn, Spool
from core.errors import ModelpressError

BATCH_ROWS = 1024


def stack_numbers(rows: Iterable[Sequence[object]], names: tuple[str, ...]) -> FileColumn:
    """A column (n, len(names)) of fp32 in a file; raises `invalid_data` with the row and the column of what is none."""
    spool = Spool()
    spool.write(part.tobytes() for part in _convert(rows, names))
    return spool.column(np.float32, (spool.path.stat().st_size // (4 * len(names)), len(names)))


def _convert(rows: Iterable[Sequence[object]], names: tuple[str, ...]) -> Iterator[NDArray[np.float32]]:
    start, left = 0, iter(rows)
    while batch := list(itertools.islice(left, BATCH_ROWS)):
        with np.errstate(over="ignore"):
            try:
                found = np.array(batch, np.float64).astype(np.float32)
            except (ValueError, TypeError, OverflowError):
                found = np.array([[_number(value) for value in row] for row in batch], np.float32)
        if not np.isfinite(found).all():
            row, place = (int(each) for each in np.argwhere(~np.isfinite(found))[0])
            raise ModelpressError(
                "invalid_data",
                f"Row {start + row} of `{names[place]}` is no finite number: {str(batch[row][place])[:50]!r}.",
                hint="Leave the row out or fill it in; name the columns that are samples as a list in `splits`.",
            )
        yield found
        start += len(batch)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")
