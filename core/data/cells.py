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
# What zipfile and zlib raise on a damaged entry.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)


class Store(ABC):
    """Byte strings by row."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def get(self, row: int) -> bytes:
        """The bytes of a row; raises `invalid_data` with the row."""

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
        self._ends = ends
        self._bytes = FileColumn(self._spool.path, np.uint8, (ends[-1],))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def get(self, row: int) -> bytes:
        """The bytes of a row."""
        return self._bytes.span(self._ends[row], self._ends[row + 1]).tobytes()

    def place(self, row: int) -> str:
        """`row 7`."""
        return f"row {row}"


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
        return [self._decode(int(row)) for row in rows]

    def lists(self, rows: Rows) -> list[list[JsonValue]]:
        """The lists of some rows."""
        return [json.loads(self.store.get(int(row))) for row in rows]

    def contents(self, rows: Rows) -> Iterator[bytes]:
        """The bytes of each row."""
        return (self.store.get(int(row)) for row in rows)

    def fail(self, row: int, reason: str, hint: str | None = None) -> ModelpressError:
        """The error that says why a row cannot be used."""
        return ModelpressError(
            "invalid_data", f"Sample {row} of `{self.name}` ({self.store.place(row)}) {reason}", hint=hint
        )

    def _decode(self, row: int) -> str:
        try:
            return self.store.get(row).decode()
        except UnicodeDecodeError as error:
            raise self.fail(row, f"is no UTF-8 text: {error.reason}.") from error


def pack(value: Any) -> bytes:
    """One cell as it is kept: texts as UTF-8, bytes as they are, all else as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, ensure_ascii=False).encode()
