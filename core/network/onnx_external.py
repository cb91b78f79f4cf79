"""Tensors whose bytes are in other files: checked, and found among what was uploaded."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.errors import ModelpressError
from core.network.onnx_outside import put_outside, rooted
from core.network.upload import Files

# Large weights stay in their file; shapes and the like are small, and the runtime wants them in the model.
LARGE_BYTES = 64 * 1024

# Types whose elements are not whole bytes, by how many fit in one.
_PACKED: dict[int, int] = {
    onnx.TensorProto.INT4: 2,
    onnx.TensorProto.UINT4: 2,
    onnx.TensorProto.FLOAT4E2M1: 2,
    onnx.TensorProto.INT2: 4,
    onnx.TensorProto.UINT2: 4,
}


@dataclass(frozen=True)
class _Place:
    path: Path
    offset: int
    length: int


def place_external(
    weights: Iterable[onnx.TensorProto], others: Iterable[onnx.TensorProto], files: Files, limit: int
) -> None:
    """Find the bytes of tensors that are stored outside; raises `external_data` with the tensor.

    A location is only a name among `files`, never a path. Large weights then say where they are (see `onnx_outside`);
    small ones and `others`, which are no weights of the main graph, are taken in and together may have `limit` bytes.
    """
    inside = [(tensor, _find(tensor, files)) for tensor in filter(_is_external, others)]
    for tensor in filter(_is_external, weights):
        place = _find(tensor, files)
        if place.length < LARGE_BYTES or tensor.data_type in _PACKED:
            inside.append((tensor, place))
        else:
            put_outside(tensor, rooted(place.path), place.offset, place.length)
    total = sum(place.length for _, place in inside)
    if total > limit:
        sentence = f"What branches and attributes have in other files are {total} bytes; at most {limit} are read."
        raise ModelpressError("graph_too_large", sentence, hint="Store them as initializers of the main graph.")
    for tensor, place in inside:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            tensor.raw_data = file.read(place.length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _find(tensor: onnx.TensorProto, files: Files) -> _Place:
    """Where the bytes of a tensor are, within its file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    steps = location.split("/")
    if not location or location.startswith("/") or ".." in steps or "\\" in location or "\0" in location:
        raise _refusal(tensor, f"The location {location!r} of tensor {tensor.name} is no file beside the model.")
    path = files.get(steps[-1])
    if path is None:
        raise _refusal(
            tensor,
            f"The bytes of tensor {tensor.name} are in {steps[-1]}, which was not uploaded with the model.",
            hint=f"Upload {steps[-1]} together with the .onnx file, or save the model as one file.",
        )
    expected = _bytes_of(tensor)
    offset, length = _number(tensor, entries, "offset", 0), _number(tensor, entries, "length", expected)
    if length != expected or offset + length > path.stat().st_size:
        raise _refusal(tensor, f"Tensor {tensor.name} does not fit into {steps[-1]}: {length} bytes from {offset}.")
    return _Place(path, offset, length)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    elements = int(math.prod(tensor.dims))
    if tensor.data_type in _PACKED:
        return -(-elements // _PACKED[tensor.data_type])
    try:
        size = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError, TypeError) as error:
        raise _refusal(tensor, f"Tensor {tensor.name} is of a type that cannot be stored outside.") from error
    if tensor.data_type == onnx.TensorProto.STRING:
        raise _refusal(tensor, f"Tensor {tensor.name} is text, which cannot be stored outside.")
    return elements * size


def _number(tensor: onnx.TensorProto, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _refusal(tensor, f"The {key} of tensor {tensor.name} is no number: {text[:40]!r}.")
    return int(text)


def _refusal(tensor: onnx.TensorProto, sentence: str, hint: str | None = None) -> ModelpressError:
    return ModelpressError("external_data", sentence, hint=hint, node=tensor.name)
