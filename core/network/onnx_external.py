"""Tensors whose bytes are in other files: checked, found among what was uploaded, and taken into the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.errors import ModelpressError
from core.network.upload import Files

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


def load_external(tensors: Sequence[onnx.TensorProto], files: Files, limit: int) -> None:
    """Take the bytes of tensors that are stored outside into them; raises `external_data` with the tensor.

    A location is only a name among `files`, never a path; all tensors together may have `limit` bytes.
    """
    outside = [
        tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    ]
    places = [_find(tensor, files) for tensor in outside]
    total = sum(place.length for place in places)
    if total > limit:
        raise ModelpressError(
            "graph_too_large",
            f"The weights have {total} bytes; at most {limit} are read.",
            hint="Export the network in half precision, or in parts.",
        )
    for tensor, place in zip(outside, places, strict=True):
        with place.path.open("rb") as file:
            file.seek(place.offset)
            tensor.raw_data = file.read(place.length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


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
