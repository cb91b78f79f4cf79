"""Cells that are not numbers: encoded images, texts, lists. They stay where they are and are read row by row."""

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from pydantic import JsonValue

from core.data.columns import FileColumn, Rows, Spool
from core.errors import ModelpressError

MAX_CELL_BYTES = 64 * 2**20
# Of a file of cells so many bytes and rows are read at once, together with gaps of at most so many bytes.
READ_BYTES, READ_ROWS, GAP_BYTES = 4 * 2**20, 1024, 4096
# What zipfile and zlib raise on a damaged entry; `IndexError` on a file without a name.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError, IndexError)


class Store(ABC):
    """Byte strings by row."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def get(self, row: int) -> bytes:
        """The bytes of a row; raises `invalid_data` with the row."""

    @abstractmethod
    def get_many(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row, in bounded memory however many rows there are; raises as `get` does."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Where the user finds the row, such as `row 7` or the name of a file."""


@final
class SpoolStore(Store):
    """Byte strings one after the other in a temporary file, and where each ends."""

    def __init__(self, cells: Iterable[bytes]) -> None:
        self._spool = Spool()
        ends = array("q", [0])

        def parts() -> Iterator[bytes]:
            for cell in cells:
                ends.append(ends[-1] + len(cell))
                yield cell

        self._spool.write(parts())
        self._ends: Rows = np.array(ends, np.int64)
        self._bytes = FileColumn(self._spool.path, np.uint8, (ends[-1],))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def get(self, row: int) -> bytes:
        """The bytes of a row."""
        return self._bytes.span(int(self._ends[row]), int(self._ends[row + 1])).tobytes()

    def get_many(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row; neighbours are read together, since a read for each short text takes long."""
        for start in range(0, len(rows), READ_ROWS):
            part = rows[start : start + READ_ROWS]
            totals = np.cumsum(self._ends[part + 1] - self._ends[part])
            cuts = np.flatnonzero(np.diff(totals // READ_BYTES)) + 1
            for piece in np.split(part, cuts):
                yield from self._read(piece)

    def place(self, row: int) -> str:
        """`row 7`."""
        return f"row {row}"

    def _read(self, rows: Rows) -> list[bytes]:
        order = np.argsort(rows, kind="stable")
        starts, stops = self._ends[rows[order]], self._ends[rows[order] + 1]
        found = [b""] * len(rows)
        for group in np.split(np.arange(len(rows)), np.flatnonzero(starts[1:] - stops[:-1] > GAP_BYTES) + 1):
            first = int(starts[group[0]])
            read = self._bytes.span(first, int(stops[group[-1]])).tobytes()
            places = (order[group], starts[group] - first, stops[group] - first)
            for place, begin, end in zip(*(each.tolist() for each in places), strict=True):
                found[place] = read[begin:end]
        return found


@final
class ZipStore(Store):
    """Entries of a zip file."""

    def __init__(self, path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
        self._archive = zipfile.ZipFile(path)
        self._infos = infos

    def __len__(self) -> int:
        return len(self._infos)

    def get(self, row: int) -> bytes:
        """The bytes of an entry, checked against its CRC."""
        info = self._infos[row]
        if info.file_size > MAX_CELL_BYTES:
            raise ModelpressError(
                "invalid_data",
                f"`{info.filename}` unpacks to {info.file_size:,} bytes; {MAX_CELL_BYTES:,} are allowed.",
            )
        try:
            return self._archive.read(info)
        except DAMAGE as error:
            raise ModelpressError("invalid_data", f"`{info.filename}` is damaged or cut short.") from error

    def get_many(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each entry."""
        return (self.get(row) for row in rows.tolist())

    def place(self, row: int) -> str:
        """The name of the entry."""
        return f"`{self._infos[row].filename}`"


@final
class ListStore(Store):
    """Byte strings in memory, for few or for repeated ones such as the names of classes."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, row: int) -> bytes:
        """The bytes of a row."""
        return self._values[row]

    def get_many(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return (self._values[row] for row in rows.tolist())

    def place(self, row: int) -> str:
        """`row 7`."""
        return f"row {row}"


@final
@dataclass(frozen=True)
class Cells:
    """A column of cells that are no numbers yet; lists are kept as JSON, texts as UTF-8."""

    kind: Literal["image", "text", "list"]
    name: str
    store: Store

    def __len__(self) -> int:
        return len(self.store)

    def texts(self, rows: Rows) -> list[str]:
        """The texts of some rows; raises `invalid_data` for what is no UTF-8."""
        return [self._decode(row, cell) for row, cell in zip(rows.tolist(), self.store.get_many(rows), strict=True)]

    def lists(self, rows: Rows) -> list[list[JsonValue]]:
        """The lists of some rows."""
        return [json.loads(cell) for cell in self.store.get_many(rows)]

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return self.store.get_many(rows)

    def fail(self, row: int, reason: str, hint: str | None = None) -> ModelpressError:
        """The error that says why a row cannot be used."""
        return ModelpressError(
            "invalid_data", f"Sample {row} of `{self.name}` ({self.store.place(row)}) {reason}", hint=hint
        )

    def _decode(self, row: int, cell: bytes) -> str:
        try:
            return cell.decode()
        except UnicodeDecodeError as error:
            raise self.fail(row, f"is no UTF-8 text: {error.reason}.") from error


def pack(value: Any) -> bytes:
    """One cell as it is kept: texts as UTF-8, bytes as they are, all else as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, ensure_ascii=False).encode()
