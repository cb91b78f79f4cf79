"""Bytes of an ONNX file: on disk, stripped, after xz, and by what they hold."""

import lzma
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.measure.onnx_graph import load_graph
from core.measure.roles import find_roles
from core.network.strip import strip_onnx
from core.verdict import ItemisedBytes

XZ_PRESET = 6
DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True, slots=True)
class Size:
    """`stripped` leaves out what does not compute (source paths, stack traces); `xz` is that after xz, `fp16` that with
    every fp32 constant halved.
    """

    disk: int
    stripped: int
    xz: int
    fp16: int


def measure_size(path: Path) -> Size:
    """The sizes of a file in bytes."""
    graph = load_graph(path)
    single = [tensor for tensor in graph.constants.values() if tensor.data_type == onnx.TensorProto.FLOAT]
    saved = sum(_data_bytes(tensor) for tensor in single) // 2
    stripped = strip_onnx(graph.model).SerializeToString(deterministic=True)
    xz = len(lzma.compress(stripped, preset=XZ_PRESET))
    return Size(path.stat().st_size, len(stripped), xz, len(stripped) - saved)


def itemise_bytes(path: Path) -> ItemisedBytes:
    """Where the bytes of a file are: its constants' data by role, all else is graph; they sum to the file's size."""
    graph = load_graph(path)
    items: Counter[str] = Counter()
    for name, role in find_roles(graph).items():
        items[role] += _data_bytes(graph.constants[name])
    items["graph"] += path.stat().st_size - sum(items.values())
    return ItemisedBytes(**items)


def _data_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    for field in DATA_FIELDS:
        bare.ClearField(field)
    return int(tensor.ByteSize() - bare.ByteSize())
