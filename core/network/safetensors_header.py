"""The header of a `.safetensors` file, checked before any library reads the file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import ModelpressError

MAX_HEADER_BYTES = 16 * 1024**2
MAX_TENSORS = 65_536
_LENGTH_BYTES = 8
# Name of a type here -> that of torch and, but for bfloat16, of NumPy; and bytes of an element.
DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


class StoredTensor(BaseModel):
    """One tensor as the header declares it; offsets are from the end of the header."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(max_length=16)]
    data_offsets: tuple[int, int]

    @property
    def bytes(self) -> int:
        """Bytes in the file."""
        return self.data_offsets[1] - self.data_offsets[0]


_HEADER = TypeAdapter(dict[str, StoredTensor])
_METADATA = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class Header:
    """The tensors of a file by their names, and where in it the header ends and their bytes begin."""

    tensors: Mapping[str, StoredTensor]
    data_at: int


def read_header(path: Path, name: str) -> Header:
    """The header of a file; raises `corrupt_file` where its tensors are not exactly what the file holds."""
    with path.open("rb") as file:
        return parse_header(file, path.stat().st_size, name)


def parse_header(file: IO[bytes], size: int, name: str) -> Header:
    """The header that a stream of `size` bytes begins with, of which no more is read; raises as `read_header` does."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
        raise _corrupt(name, f"its header has {length:,} bytes; the file {size:,}, a header {MAX_HEADER_BYTES:,}")
    tensors = _parse(file.read(length), name)
    end = 0
    for title, tensor in sorted(tensors.items(), key=lambda entry: entry[1].data_offsets):
        _, itemsize = DTYPES.get(tensor.dtype, ("", 0))
        if not itemsize:
            raise ModelpressError(
                "unsupported_graph", f"Tensor {title[:200]} of {name} is of type {tensor.dtype[:20]}.", node=title[:200]
            )
        if tensor.data_offsets[0] != end or tensor.bytes != math.prod(tensor.shape) * itemsize:
            raise _corrupt(name, f"tensor {title[:200]} overlaps another, or has other bytes than its shape needs")
        end = tensor.data_offsets[1]
    if end != size - _LENGTH_BYTES - length:
        raise _corrupt(name, "it has other bytes than its header declares")
    return Header(tensors, _LENGTH_BYTES + length)


def _parse(text: bytes, name: str) -> dict[str, StoredTensor]:
    try:
        entries = json.loads(text, object_pairs_hook=_without_duplicates)
        if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
            raise ValueError(f"it has more than {MAX_TENSORS} tensors, or none")
        _METADATA.validate_python(entries.pop("__metadata__", {}))
        return _HEADER.validate_python(entries)
    except ValidationError as error:
        where = ".".join(str(step) for step in error.errors()[0]["loc"])[:200]
        raise _corrupt(name, f"its header is not valid at {where}") from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(name, str(error)[:200]) from error


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice in its header")
    return entries


def _corrupt(name: str, reason: str) -> ModelpressError:
    return ModelpressError("corrupt_file", f"{name[:200]} is no valid safetensors file: {reason}.")
