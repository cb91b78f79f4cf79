"""Columns of samples, read a few rows at a time so that they may be larger than memory."""

import math
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.errors import ModelpressError

CHUNK_ELEMENTS = 1 << 20
# Rows of which each may need to be decoded or tokenised.
CHUNK_ROWS = 4096

Array = NDArray[Any]
Rows = NDArray[np.int64]


class Column(ABC):
    """Numbers with one sample a row: `shape` is (samples, …)."""

    # Whether a row is made by decoding or tokenising, so that reading all of them takes long.
    is_made: ClassVar[bool] = False

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), …) in the order asked for; raises `invalid_data` naming a row that cannot be read."""

    @abstractmethod
    def contents(self, rows: Rows) -> Iterator[bytes]:
        """Of each row the bytes that say whether two samples are the same."""


def chunks(column: Column) -> Iterator[tuple[int, Array]]:
    """The whole column in order, as pairs of the first row's number and rows, in bounded memory."""
    width = max(1, math.prod(column.shape[1:]))
    step = max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // width)) if column.shape[1:] else CHUNK_ELEMENTS
    for start in range(0, len(column), step):
        yield start, column.read(np.arange(start, min(start + step, len(column)), dtype=np.int64))


def row_bytes(column: Column, rows: Rows) -> Iterator[bytes]:
    """The bytes of each row as it is read."""
    step = max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // max(1, math.prod(column.shape[1:]))))
    for start in range(0, len(rows), step):
        for row in np.ascontiguousarray(column.read(rows[start : start + step])):
            yield row.tobytes()


@final
class ArrayColumn(Column):
    """An array in memory."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), …)."""
        chosen: Array = self.array[rows]
        return chosen

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return row_bytes(self, rows)


@final
class FileColumn(Column):
    """An array in C order at an offset of a file; every read asks the disk, nothing is mapped.

    A memory map would count against the address space that a runner may have.
    """

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._offset = offset
        self._row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), …); neighbours are read together."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if found.nbytes == 0:
            return found
        raw = found.reshape(len(rows), -1).view(np.uint8)
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in zip([0, *ends.tolist()], [*ends.tolist(), len(rows)], strict=True):
            if start < stop:
                self._fill(raw[start:stop].reshape(-1), self._offset + int(rows[start]) * self._row_bytes)
        return found

    def span(self, start: int, stop: int) -> Array:
        """The rows from `start` to before `stop`."""
        found = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if found.nbytes:
            self._fill(found.reshape(-1).view(np.uint8), self._offset + start * self._row_bytes)
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return row_bytes(self, rows)

    def _fill(self, target: NDArray[np.uint8], offset: int) -> None:
        view = target.data
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise ModelpressError("invalid_data", "The file is cut short.")
            view, offset = view[count:], offset + count


@final
class WindowColumn(Column):
    """Windows (n, width) over a column of single numbers; window i begins at `start` + i · `step`."""

    def __init__(self, tokens: Column, *, width: int, step: int, start: int, count: int) -> None:
        self.tokens, self._step, self._start = tokens, step, start
        self.shape, self.dtype = (count, width), tokens.dtype

    def read(self, rows: Rows) -> Array:
        """The windows (len(rows), width)."""
        places = self._start + rows[:, None] * self._step + np.arange(self.shape[1], dtype=np.int64)
        return self.tokens.read(places.reshape(-1)).reshape(places.shape)

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each window."""
        return row_bytes(self, rows)


@final
class SliceColumn(Column):
    """Part of the second axis of another column, from `start` to `stop` as in a slice."""

    def __init__(self, column: Column, start: int | None, stop: int | None) -> None:
        self._column, self._part = column, slice(start, stop)
        width = len(range(column.shape[1])[self._part])
        self.shape, self.dtype = (len(column), width, *column.shape[2:]), column.dtype

    def read(self, rows: Rows) -> Array:
        """The part of the rows."""
        chosen: Array = self._column.read(rows)[:, self._part]
        return chosen

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return row_bytes(self, rows)


@final
class SameColumn(Column):
    """The same row again and again: an attention mask of ones, positions."""

    def __init__(self, row: Array, count: int) -> None:
        self._row = row
        self.shape, self.dtype = (count, *row.shape), row.dtype

    def read(self, rows: Rows) -> Array:
        """Copies of the row."""
        return np.repeat(self._row[None], len(rows), axis=0)

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The row's bytes, once for each."""
        return (self._row.tobytes() for _ in rows)


@final
class Spool:
    """A file in the temporary folder that is gone when nothing refers to it."""

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="column-")
        os.close(descriptor)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    def write(self, parts: Iterable[bytes]) -> None:
        """Write the parts one after the other; raises `no_space`."""
        try:
            with self.path.open("wb") as file:
                file.writelines(parts)
        except OSError as error:
            raise ModelpressError("no_space", f"The data cannot be unpacked on this host: {error.strerror}.") from error

    def column(self, dtype: DTypeLike, shape: tuple[int, ...]) -> FileColumn:
        """What was written, as a column that stays readable after the spool is gone."""
        return FileColumn(self.path, dtype, shape)
