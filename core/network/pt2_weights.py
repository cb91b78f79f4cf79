"""The weights of a `.pt2` archive: raw bytes and a description of each, never a pickle."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import nn

from core.errors import ModelpressError
from core.network.archive import Archive
from core.network.pt2_schema import Payload, PayloadConfig, TensorMeta, Union

# ScalarType of torch's export schema; halves and doubles are computed in fp32.
STORED_DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


@dataclass(frozen=True)
class StoredWeight:
    """A weight in fp32 (or its integer type), and the type and bytes that it has in the file."""

    tensor: torch.Tensor
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes in the file's type."""
        return self.tensor.numel() * self.dtype.itemsize


def read_weights(archive: Archive, model: str) -> dict[str, StoredWeight]:
    """All weights and constants by the names that the graph uses; weights that share bytes are one object.

    Raises `unsafe_file` for a pickle, `corrupt_file` where bytes and description disagree.
    """
    shared: dict[str, StoredWeight] = {}
    weights: dict[str, StoredWeight] = {}
    for folder in ("weights", "constants"):
        listing = f"data/{folder}/{model}_{folder}_config.json"
        if listing not in archive.names:
            continue
        for name, payload in _read_listing(archive, listing).config.items():
            key = f"{payload.path_name} {payload.is_param} {payload.tensor_meta}"
            if key not in shared:
                shared[key] = _read_weight(archive, f"data/{folder}/{payload.path_name}", name, payload)
            weights[name] = shared[key]
    return weights


def plain_size(size: Union) -> int:
    """A size that is a plain number; raises `unsupported_graph` where it is symbolic."""
    value = size.get("as_int")
    if not isinstance(value, int) or value < 0:
        raise ModelpressError("unsupported_graph", "A size that must be a number is an expression.")
    return value


def _read_listing(archive: Archive, name: str) -> PayloadConfig:
    try:
        return PayloadConfig.model_validate(archive.read_json(name))
    except ValidationError as error:
        raise ModelpressError("corrupt_file", f"The entry {name} is not as torch 2.13 writes it.") from error


def _read_weight(archive: Archive, entry: str, name: str, payload: Payload) -> StoredWeight:
    if payload.use_pickle or payload.tensor_meta is None:
        raise ModelpressError(
            "unsafe_file", f"The weight {name} is stored as a pickle, which could run code.", node=name
        )
    meta = payload.tensor_meta
    dtype = STORED_DTYPES.get(meta.dtype)
    if dtype is None:
        raise ModelpressError("unsupported_graph", f"The weight {name} is of a type that is not read.", node=name)
    tensor = _shape(archive.read(entry), meta, dtype, name)
    tensor = tensor.float() if dtype.is_floating_point else tensor
    return StoredWeight(nn.Parameter(tensor) if payload.is_param and dtype.is_floating_point else tensor, dtype)


def _shape(data: bytes, meta: TensorMeta, dtype: torch.dtype, name: str) -> torch.Tensor:
    sizes = [plain_size(size) for size in meta.sizes]
    strides = [plain_size(stride) for stride in meta.strides]
    offset = plain_size(meta.storage_offset)
    reach = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=False)) + 1
    if len(sizes) != len(strides) or (0 not in sizes and reach * dtype.itemsize > len(data)):
        raise ModelpressError("corrupt_file", f"The weight {name} has fewer bytes than its shape needs.", node=name)
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    if any(stride == 0 and size > 1 for size, stride in zip(sizes, strides, strict=True)):
        raise ModelpressError("unsupported_graph", f"The weight {name} repeats its own bytes.", node=name)
    flat = torch.frombuffer(bytearray(data[: len(data) // dtype.itemsize * dtype.itemsize]), dtype=dtype)
    return flat.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)
