"""Bytes of an ONNX file: on disk, stripped, after xz, and by what they hold."""

import lzma
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.measure.onnx_graph import OnnxGraph, load_graph
from core.measure.roles import find_roles
from core.network.onnx_outside import ROOT, bytes_outside, is_outside, place_of, read_blocks
from core.network.strip import strip_in_place
from core.verdict import ItemisedBytes

XZ_PRESET = 6
# It takes a second for every four megabytes or so, and a verdict should not wait for it longer than for its timings.
MOST_FOR_XZ = 256 * 2**20
DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True, slots=True)
class Size:
    """`stripped` leaves out what does not compute (source paths, stack traces); `xz` is that after xz, `fp16` that with
    every fp32 constant halved. `xz` is None where `stripped` has more than `MOST_FOR_XZ`.
    """

    disk: int
    stripped: int
    xz: int | None
    fp16: int


def measure_size(path: Path) -> Size:
    """The sizes of a file in bytes, weights that are in a file beside it included."""
    graph = load_graph(path)
    single = [tensor for tensor in graph.constants.values() if tensor.data_type == onnx.TensorProto.FLOAT]
    saved = sum(data_bytes(tensor) for tensor in single) // 2
    disk = _disk_bytes(path, graph)
    outside = [_copy(tensor) for tensor in filter(is_outside, graph.constants.values())]
    # Nobody else has this model, so that no copy of its weights is made.
    strip_in_place(graph.model)
    stripped = int(graph.model.ByteSize()) + bytes_outside(graph.model)
    xz = _xz_bytes(graph.model, outside) if stripped <= MOST_FOR_XZ else None
    return Size(disk, stripped, xz, stripped - saved)


def itemise_bytes(path: Path) -> ItemisedBytes:
    """Where the bytes of a file are: its constants' data by role, all else is graph; they sum to the file's size."""
    graph = load_graph(path)
    items: Counter[str] = Counter()
    for name, role in find_roles(graph).items():
        items[role] += data_bytes(graph.constants[name])
    items["graph"] += _disk_bytes(path, graph) - sum(items.values())
    return ItemisedBytes(**items)


def _disk_bytes(path: Path, graph: OnnxGraph) -> int:
    locations = {place_of(tensor)[0] for tensor in graph.constants.values() if is_outside(tensor)}
    return path.stat().st_size + sum((ROOT / location).stat().st_size for location in locations)


def _xz_bytes(model: onnx.ModelProto, outside: list[onnx.TensorProto]) -> int:
    compressor = lzma.LZMACompressor(preset=XZ_PRESET)
    size = len(compressor.compress(model.SerializeToString(deterministic=True)))
    for tensor in outside:
        size += sum(len(compressor.compress(block)) for block in read_blocks(tensor))
    return size + len(compressor.flush())


def _copy(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy


def data_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor's numbers take, here or in another file."""
    if is_outside(tensor):
        return place_of(tensor)[2]
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    for field in DATA_FIELDS:
        bare.ClearField(field)
    return int(tensor.ByteSize() - bare.ByteSize())
