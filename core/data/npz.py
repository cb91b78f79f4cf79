"""Arrays of an `.npz` file, read without pickle: headers are checked first, memory is bounded."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from core.data.columns import Array, ArrayColumn, Column, FileColumn, Spool
from core.errors import ModelpressError

MAX_ENTRIES = 1000
# Stored arrays are read where they are, deflated ones are unpacked to a temporary file.
MAX_DEFLATED_BYTES = 8 * 1024**3
# Arrays in Fortran order cannot be read row by row.
MAX_FORTRAN_BYTES = 256 * 1024**2
CHUNK_BYTES = 1 << 20
# Of the local header of a zip entry (APPNOTE 4.3.7): its fixed part, and where the lengths of name and extra field are.
LOCAL_HEADER_BYTES = 30
NAME_LENGTH_AT = 26
ENCRYPTED_FLAG = 0x1
NUMBERS = "biuf"
# What zipfile, zlib and numpy raise on a damaged file; the last ones where a header or a name is no Python or empty.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    OverflowError,
    IndexError,
)


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """One array as its header declares it; `data_at` is where its data begin inside the entry."""

    name: str
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    fortran_order: bool
    data_at: int
    info: zipfile.ZipInfo


@final
class NpzArchive:
    """The arrays of one `.npz` file; opening reads headers only. Raises `invalid_data`."""

    def __init__(self, path: Path, *, max_deflated_bytes: int = MAX_DEFLATED_BYTES) -> None:
        self._path = path
        self.entries: dict[str, ArrayEntry] = {}
        with _reporting(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            self._check_infos(infos, max_deflated_bytes)
            for info in infos:
                if info.filename.endswith(".npy"):
                    entry = _read_header(archive, info)
                    self.entries[entry.name] = entry

    def read(self, name: str) -> Column:
        """The array `name`, which stays on the disk. Every byte is checked against its CRC."""
        entry = self.entries[name]
        if entry.dtype.kind not in NUMBERS:
            raise ModelpressError("invalid_data", f"Array `{name}` holds {entry.dtype}, not numbers.")
        if entry.shape == ():
            raise ModelpressError("invalid_data", f"Array `{name}` is a single number.")
        with _reporting(self._path, name), zipfile.ZipFile(self._path) as archive:
            column = self._place(archive, entry) if _is_stored(entry.info) else _inflate(archive, entry)
        return _turn(entry, column) if entry.fortran_order and len(entry.shape) > 1 else column

    def _check_infos(self, infos: list[zipfile.ZipInfo], max_deflated_bytes: int) -> None:
        names = [info.filename for info in infos]
        if len(infos) > MAX_ENTRIES:
            raise ModelpressError("invalid_data", f"The file has {len(infos):,} entries; {MAX_ENTRIES:,} are allowed.")
        if len(set(names)) != len(names):
            raise ModelpressError("invalid_data", "The file has two entries of the same name.")
        if any(info.header_offset < 0 for info in infos):
            raise zipfile.BadZipFile
        for info in infos:
            if info.flag_bits & ENCRYPTED_FLAG or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ModelpressError("invalid_data", f"Entry `{info.filename}` is encrypted or of an unknown packing.")
        deflated = sum(info.file_size for info in infos if not _is_stored(info))
        if deflated > max_deflated_bytes:
            raise ModelpressError(
                "invalid_data",
                f"The compressed arrays unpack to {deflated:,} bytes; {max_deflated_bytes:,} are allowed.",
                hint="Save them with numpy.savez, which does not compress: then they are read where they are.",
            )

    def _place(self, archive: zipfile.ZipFile, entry: ArrayEntry) -> FileColumn:
        with archive.open(entry.info) as stream:
            while stream.read(CHUNK_BYTES):
                pass
        with self._path.open("rb") as file:
            file.seek(entry.info.header_offset + NAME_LENGTH_AT)
            lengths = file.read(4)
        name_bytes, extra_bytes = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        start = entry.info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes + entry.data_at
        return FileColumn(self._path, entry.dtype, entry.shape, start)


def _is_stored(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayEntry:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ModelpressError("invalid_data", f"Array `{name}` is of an unknown version of the npy format.")
        data_at = stream.tell()
    declared = math.prod(shape) * dtype.itemsize
    # The size of an array of objects is that of its pickle; it is listed here and refused when it is read.
    if any(size < 0 for size in shape) or (declared != info.file_size - data_at and not dtype.hasobject):
        raise ModelpressError("invalid_data", f"Array `{name}` does not have the bytes that its header declares.")
    return ArrayEntry(name, tuple(shape), dtype, fortran_order, data_at, info)


def _inflate(archive: zipfile.ZipFile, entry: ArrayEntry) -> FileColumn:
    spool = Spool()
    with archive.open(entry.info) as stream:
        stream.read(entry.data_at)
        # Read until the end, since zipfile compares the CRC only then.
        spool.write(iter(lambda: stream.read(CHUNK_BYTES), b""))
    if spool.path.stat().st_size != math.prod(entry.shape) * entry.dtype.itemsize:
        raise EOFError
    return spool.column(entry.dtype, entry.shape)


def _turn(entry: ArrayEntry, column: FileColumn) -> ArrayColumn:
    """An array in Fortran order, in memory with its samples first."""
    if entry.info.file_size > MAX_FORTRAN_BYTES:
        raise ModelpressError(
            "invalid_data",
            f"Array `{entry.name}` is in Fortran order and has {entry.info.file_size:,} bytes; "
            f"{MAX_FORTRAN_BYTES:,} are allowed in this order.",
            hint="Save numpy.ascontiguousarray of it: then it is read from the disk.",
        )
    array: Array = column.span(0, len(column)).reshape(-1).reshape(entry.shape, order="F")
    return ArrayColumn(array)


@contextmanager
def _reporting(path: Path, name: str | None = None) -> Iterator[None]:
    """Turn `DAMAGE` into `invalid_data`."""
    what = f"Array `{name}` of {path.name}" if name else path.name
    try:
        yield
    except DAMAGE as error:
        raise ModelpressError(
            "invalid_data",
            f"{what} cannot be read: it is damaged, cut short, or not an .npz file.",
            hint="Write it again with numpy.savez and upload it again.",
        ) from error
