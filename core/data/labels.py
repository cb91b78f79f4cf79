"""Labels as numbers: classes by name, several classes at once, values."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
from pydantic import JsonValue

from core.data.cells import Cells
from core.data.columns import Array, ArrayColumn, Column, Rows
from core.data.source import Raw
from core.description import Task
from core.errors import ModelpressError

CHUNK = 4096
MAX_CLASSES = 100_000
SEPARATOR = "|"


@final
class ManyHotColumn(Column):
    """Which classes each sample has, (n, classes) of 0 and 1, from lists of numbers or names."""

    def __init__(self, cells: Cells, names: tuple[str, ...], classes: int) -> None:
        self._cells = cells
        self._numbers = {name: number for number, name in enumerate(names)}
        self.shape, self.dtype = (len(cells), classes), np.dtype(np.uint8)

    def read(self, rows: Rows) -> Array:
        """The rows (len(rows), classes); raises `invalid_data` for an unknown class."""
        found = np.zeros((len(rows), self.shape[1]), np.uint8)
        for place, (row, given) in enumerate(zip(rows.tolist(), many_of(self._cells, rows), strict=True)):
            for value in given:
                number = self._numbers.get(value, -1) if isinstance(value, str) else value
                if not isinstance(number, int) or not 0 <= number < self.shape[1]:
                    raise self._cells.fail(
                        row, f"has the class {value!r}; classes are named or numbered from 0 to {self.shape[1] - 1}."
                    )
                found[place, number] = 1
        return found

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The labels as they are."""
        return self._cells.contents(rows)


def many_of(cells: Cells, rows: Rows) -> list[list[JsonValue]]:
    """Several labels a row: of lists, of JSON lists in a text, or of names divided by `|`."""
    if cells.kind == "list":
        return cells.lists(rows)
    return [_split(text) for text in cells.texts(rows)]


def collect_names(raws: Sequence[Raw], task: Task) -> tuple[str, ...]:
    """The names of the classes that labels of all splits use, sorted; () when they are numbers."""
    names: set[str] = set()
    for raw in raws:
        if isinstance(raw, Column) or task in ("regression", "embedding", "none", "language_modelling"):
            continue
        for rows in _steps(len(raw)):
            if task == "classification":
                names.update(raw.texts(rows))
            else:
                names.update(value for given in many_of(raw, rows) for value in given if isinstance(value, str))
            if len(names) > MAX_CLASSES:
                raise ModelpressError(
                    "invalid_data", f"Labels `{raw.name}` have more than {MAX_CLASSES:,} different values."
                )
    return () if all(_is_integer(name) for name in names) else tuple(sorted(names))


def encode_labels(raw: Raw, task: Task, names: tuple[str, ...], classes: int | None) -> Column:
    """Labels as numbers for the task; raises `invalid_data` with the row."""
    if isinstance(raw, Column):
        return _squeeze(raw) if task in ("classification", "regression", "embedding") else raw
    if task == "multi_label":
        count = len(names) or classes or _largest(raw) + 1
        return ManyHotColumn(raw, names, count)
    if task == "classification":
        return ArrayColumn(_numbers(raw, names))
    return ArrayColumn(_values(raw))


def _numbers(cells: Cells, names: tuple[str, ...]) -> Array:
    numbers = {name: number for number, name in enumerate(names)}
    found = np.empty(len(cells), np.int64)
    for rows in _steps(len(cells)):
        for row, text in zip(rows.tolist(), cells.texts(rows), strict=True):
            number = numbers.get(text, int(text) if not names and _is_integer(text) else None)
            if number is None:
                raise cells.fail(row, f"is {text!r}, which is none of the {len(names)} names of the classes.")
            found[row] = number
    return found


def _values(cells: Cells) -> Array:
    """Numbers written as texts, or lists of numbers, all of one length."""
    parts: list[list[float]] = []
    for rows in _steps(len(cells)):
        values = cells.lists(rows) if cells.kind == "list" else [list[JsonValue]([text]) for text in cells.texts(rows)]
        for row, value in zip(rows.tolist(), values, strict=True):
            try:
                parts.append([float(str(number)) for number in value])
            except (TypeError, ValueError) as error:
                raise cells.fail(row, f"is no number: {', '.join(map(str, value))[:50]}.") from error
            if len(parts[-1]) != len(parts[0]):
                raise cells.fail(row, f"has {len(parts[-1])} values; the first has {len(parts[0])}.")
    found = np.array(parts, np.float64)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _largest(cells: Cells) -> int:
    largest = 0
    for rows in _steps(len(cells)):
        for given in many_of(cells, rows):
            largest = max([largest, *(value for value in given if isinstance(value, int) and value < MAX_CLASSES)])
    return largest


def _squeeze(column: Column) -> Column:
    """One number a row also where the array is (n, 1)."""
    if column.shape[1:] != (1,):
        return column
    return ArrayColumn(column.read(np.arange(len(column), dtype=np.int64))[:, 0])


def _split(text: str) -> list[Any]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return found if isinstance(found, list) else [found]
    parts = [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    return [int(part) for part in parts] if parts and all(_is_integer(part) for part in parts) else list(parts)


def _is_integer(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 10


def _steps(count: int) -> Iterator[Rows]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count), dtype=np.int64)
