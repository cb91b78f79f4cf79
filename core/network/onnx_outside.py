"""Large weights of an ONNX model in memory: they stay in their files, and are mapped where somebody reads them.

A protobuf cannot hold 2 GiB, and a mapped file costs no memory that the kernel could not take back. In memory a
location is always a path from the root of the file system without its first slash: onnxruntime allows no other that
leads out of one folder (`core.measure.runtime.open_session` tells it the root).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[np.generic]
# What was mapped already, by location.
Maps = dict[str, NDArray[np.uint8]]

ROOT = Path("/")
_BLOCK = 1 << 24
_PAGE = 4096


def is_outside(tensor: onnx.TensorProto) -> bool:
    """Whether the bytes of a tensor are in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def put_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Say where the bytes of a tensor are, which then holds none itself."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def rooted(path: Path) -> str:
    """The location of a file in a model in memory."""
    return str(path.resolve().relative_to(ROOT))


def root_locations(tensors: Iterable[onnx.TensorProto], folder: Path) -> None:
    """Make locations beside a file of ours, which is in `folder`, locations from the root."""
    for tensor in tensors:
        if is_outside(tensor):
            location, offset, length = place_of(tensor)
            put_outside(tensor, rooted(folder / location), offset, length)


def place_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Location, offset and length in bytes of a tensor that is outside."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])


def bytes_outside(model: onnx.ModelProto) -> int:
    """The bytes of all weights of a model that are in other files."""
    return sum(place_of(tensor)[2] for tensor in model.graph.initializer if is_outside(tensor))


def map_tensor(tensor: onnx.TensorProto, maps: Maps) -> Array:
    """The numbers of a tensor that is outside; they can be written to, which no other mapping and no file sees."""
    location, offset, length = place_of(tensor)
    if location not in maps:
        maps[location] = np.memmap(ROOT / location, np.uint8, mode="c")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array: Array = maps[location][offset : offset + length].view(dtype).reshape(tuple(tensor.dims))
    return array if array.flags.aligned else np.array(array)


def read_blocks(tensor: onnx.TensorProto) -> Iterator[bytes]:
    """The bytes of a tensor that is outside, a block at a time."""
    location, offset, length = place_of(tensor)
    with (ROOT / location).open("rb") as file:
        file.seek(offset)
        for start in range(0, length, _BLOCK):
            yield file.read(min(_BLOCK, length - start))


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as a file; weights that are outside are copied into one file beside it, named `<name>.data`."""
    written = onnx.ModelProto()
    written.CopyFrom(model)
    data = path.with_name(f"{path.name}.data")
    outside = [tensor for tensor in written.graph.initializer if is_outside(tensor)]
    if outside:
        with data.open("wb") as file:
            for tensor in outside:
                # Where a page begins, so that it can be mapped by itself.
                file.seek(-(-file.tell() // _PAGE) * _PAGE)
                offset = file.tell()
                file.writelines(read_blocks(tensor))
                put_outside(tensor, data.name, offset, file.tell() - offset)
    path.write_bytes(written.SerializeToString(deterministic=True))
