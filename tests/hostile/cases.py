"""A hostile upload and how it must end, and the means to make archives that no honest program makes."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from core.description import DatasetSpec

# The codes with which an upload may end that is somebody's bad intent and no fault of ours.
REFUSALS = frozenset(
    {
        "unknown_format",
        "unsafe_file",
        "corrupt_file",
        "unsupported_version",
        "unsupported_operator",
        "unsupported_graph",
        "graph_too_large",
        "external_data",
        "invalid_data",
        "invalid_request",
        "parity_lost",
        "non_finite",
        "out_of_memory",
        "timed_out",
        "no_space",
    }
)
Members = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """One upload; `codes` are those with which it may be rejected."""

    name: str
    files: Mapping[str, bytes]
    codes: frozenset[str] = REFUSALS
    about: Literal["model", "dataset"] = "model"
    spec: DatasetSpec = field(default_factory=lambda: DatasetSpec(task="none"))


def case(name: str, content: bytes, *codes: str, filename: str = "model.bin") -> Case:
    """A model of one file."""
    return Case(name, {filename: content}, frozenset(codes) or REFUSALS)


def zipped(members: Members, compression: int = zipfile.ZIP_STORED, mode: int | None = None) -> bytes:
    """A zip archive; `mode` are the Unix type and permissions of its last member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for position, (name, content) in enumerate(members.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = compression
            if mode is not None and position == len(members) - 1:
                entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def link(members: Members) -> bytes:
    """A zip archive whose last member is a symbolic link."""
    return zipped(members, mode=stat.S_IFLNK | 0o777)


@cache
def zip_of_zeros(name: str, size: int) -> bytes:
    """A zip archive with one deflated member of `size` zeros, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    chunk, digest, packed = bytes(1 << 20), 0, bytearray()
    for _ in range(size >> 20):
        packed += packer.compress(chunk)
        digest = zlib.crc32(chunk, digest)
    packed += packer.flush()
    return raw_zip(name.encode(), bytes(packed), crc=digest, size=size & ~((1 << 20) - 1), method=8)


def raw_zip(name: bytes, packed: bytes, *, crc: int, size: int, method: int, flags: int = 0) -> bytes:
    """A zip archive of one member, with whatever its headers are to say."""
    facts = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 0, crc, len(packed), size & 0xFFFFFFFF, len(name), 0)
    local = b"PK\x03\x04" + facts + name + packed
    directory = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0)


def same_directory(content: bytes, count: int) -> bytes:
    """A zip archive of one member with a directory that names it `count` times over: a bomb by overlap."""
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    directory = b"".join(entry[:46] + f"{number:06}".encode() + entry[52:] for number in range(count))
    total = min(count, 0xFFFF)
    return (
        content[:start]
        + directory
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, total, total, len(directory), start, 0)
    )
