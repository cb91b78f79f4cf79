"""Opens a zip archive whose directory is of a bearable size; Python reads a directory whole before it looks at it."""

import struct
import zipfile
from pathlib import Path

from core.errors import ModelpressError

MAX_DIRECTORY_BYTES = 16 * 1024**2
# The end of central directory record, its zip64 form, and the locator of that (APPNOTE 4.3.14 to 4.3.16).
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = 65_535
_ELSEWHERE = 0xFFFFFFFF
DAMAGE = (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, struct.error)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The open archive; raises `corrupt_file` where it is damaged and `unsafe_file` where its directory is a bomb."""
    try:
        size = _directory_bytes(path)
        if size > MAX_DIRECTORY_BYTES:
            raise ModelpressError(
                "unsafe_file",
                f"The directory of the zip archive has {size:,} bytes; {MAX_DIRECTORY_BYTES:,} are allowed.",
            )
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise ModelpressError("corrupt_file", f"The zip archive is damaged: {str(error)[:200]}") from error


def _directory_bytes(path: Path) -> int:
    """The bytes of the directory as the records at the end of the file declare them."""
    length = path.stat().st_size
    with path.open("rb") as file:
        first = max(length - _END.size - _LONGEST_COMMENT, 0)
        file.seek(first)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise zipfile.BadZipFile("it has no end")
        declared = int(_END.unpack_from(tail, at)[5])
        locator = first + at - _LOCATOR_64.size
        if locator >= 0:
            file.seek(locator)
            magic, _, place, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
            if magic == b"PK\x06\x07":
                file.seek(min(place, length))
                record = _END_64.unpack(file.read(_END_64.size))
                if record[0] != b"PK\x06\x06":
                    raise zipfile.BadZipFile("its end points to nothing")
                return max(declared if declared != _ELSEWHERE else 0, int(record[8]))
    return declared
