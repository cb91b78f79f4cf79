"""Arrays of a `.safetensors` file: the header is checked by ourselves, the numbers stay on the disk."""

import json
import math
from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.data.columns import FileColumn
from core.errors import ModelpressError

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 65_536
LENGTH_BYTES = 8
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "?",
}


class Entry(BaseModel):
    """One tensor as the header declares it; offsets are from the end of the header."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=8)]
    data_offsets: tuple[int, int]


HEADER = TypeAdapter(dict[str, Entry | dict[Literal["format"] | str, str]])


@final
class SafetensorsFile:
    """The arrays of one file; opening reads the header only. Raises `invalid_data`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise ModelpressError("invalid_data", f"The header declares {length:,} bytes, which are not there.")
            text = file.read(length)
        self._data_at = LENGTH_BYTES + length
        self.entries = _read_header(text)
        self._check_places(size - self._data_at)

    def read(self, name: str) -> FileColumn:
        """The array `name`, which stays on the disk."""
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise ModelpressError(
                "invalid_data", f"Array `{name}` holds {entry.dtype}, which is not read.", hint="Save it as F32 or I64."
            )
        if entry.shape == ():
            raise ModelpressError("invalid_data", f"Array `{name}` is a single number.")
        return FileColumn(self._path, DTYPES[entry.dtype], entry.shape, self._data_at + entry.data_offsets[0])

    def _check_places(self, size: int) -> None:
        """Tensors follow each other without gaps and end with the file, as the format demands."""
        end = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].data_offsets):
            first, last = entry.data_offsets
            item = np.dtype(DTYPES[entry.dtype]).itemsize if entry.dtype in DTYPES else None
            if first != end or last < first or (item and last - first != math.prod(entry.shape) * item):
                raise ModelpressError("invalid_data", f"Array `{name}` does not have the bytes that its shape needs.")
            end = last
        if end != size:
            raise ModelpressError("invalid_data", f"The arrays need {end:,} bytes and the file has {size:,}.")


def _read_header(text: bytes) -> dict[str, Entry]:
    try:
        found = HEADER.validate_python(json.loads(text, object_pairs_hook=_without_duplicates))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ModelpressError("invalid_data", "The header of the .safetensors file is damaged.") from error
    entries = {name: entry for name, entry in found.items() if isinstance(entry, Entry)}
    if len(entries) > MAX_TENSORS:
        raise ModelpressError("invalid_data", f"The file has {len(entries):,} arrays; {MAX_TENSORS:,} are allowed.")
    return entries


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found
