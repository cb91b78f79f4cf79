"""From rows of an array to one input tensor of the network: layout, x·scale, (x − mean)/std, then by sample."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.description import InputMapping, TensorDescription
from core.errors import ModelpressError

DIMENSIONS = {"NCHW": 4, "NHWC": 4, "NHW": 3, "NC": 2, "NT": 2}
SMALLEST_SIDE = 8
VARIANCE_ADDED = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Transform:
    """How rows become a tensor of `dtype`, its samples along `batch_axis`; integers (token ids) are never scaled."""

    mapping: InputMapping
    dtype: torch.dtype
    batch_axis: int = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `invalid_data` unless an array of `shape` suits the mapping."""
        wanted = DIMENSIONS.get(self.mapping.layout)
        if wanted is not None and len(shape) != wanted:
            raise ModelpressError(
                "invalid_data",
                f"Layout {self.mapping.layout} needs an array of {wanted} dimensions; this one is {_sizes(shape)}.",
            )
        sample = self.sample_shape(shape)
        channels = sample[0] if sample else 1
        for name, values in (("mean", self.mapping.mean), ("std", self.mapping.std)):
            if len(values) not in (0, 1, channels):
                raise ModelpressError(
                    "invalid_data", f"`{name}` has {len(values)} values; 1 or {channels} (one a channel) are needed."
                )
        if 0.0 in self.mapping.std or self.mapping.scale == 0.0:
            raise ModelpressError("invalid_data", "`std` and `scale` must not be 0.")

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample after layout, for an array of `shape` with the samples first."""
        if self.mapping.layout == "NHW":
            return (1, *shape[1:])
        if self.mapping.layout == "NHWC":
            return (shape[3], shape[1], shape[2])
        return tuple(shape[1:])

    def is_image(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of an array of `shape` have channels, height and width that are worth looking at."""
        sample = self.sample_shape(shape)
        return self.dtype.is_floating_point and len(sample) == 3 and min(sample[1:]) >= SMALLEST_SIDE

    def lay_out(self, rows: NDArray[Any]) -> Tensor:
        """A tensor (n, *sample_shape) of the rows (n, …), not scaled."""
        tensor = to_tensor(rows, self.dtype)
        if self.mapping.layout == "NHW":
            return tensor.unsqueeze(1)
        if self.mapping.layout == "NHWC":
            return tensor.permute(0, 3, 1, 2).contiguous()
        return tensor

    def apply(self, rows: NDArray[Any]) -> Tensor:
        """A tensor of the rows (n, …): `sample_shape` with n at `batch_axis`."""
        return self._scaled(self.lay_out(rows)).movedim(0, self.batch_axis)

    def _scaled(self, tensor: Tensor) -> Tensor:
        if not self.dtype.is_floating_point:
            return tensor
        if self.mapping.scale != 1.0:
            tensor = tensor * self.mapping.scale
        if self.mapping.mean:
            tensor = tensor - self._by_channel(self.mapping.mean, tensor)
        if self.mapping.std:
            tensor = tensor / self._by_channel(self.mapping.std, tensor)
        return _normalise(tensor) if self.mapping.per_sample else tensor

    def _by_channel(self, values: tuple[float, ...], tensor: Tensor) -> Tensor:
        return torch.tensor(values, dtype=self.dtype).reshape(-1, *[1] * (tensor.dim() - 2))


def _normalise(tensor: Tensor) -> Tensor:
    """Each sample (n, …) with mean 0 and deviation 1, as the feature extractor of Wav2Vec2 does it."""
    variance, mean = torch.var_mean(tensor.flatten(1), dim=1, correction=0)
    shape = (-1, *[1] * (tensor.dim() - 1))
    return (tensor - mean.reshape(shape)) / (variance + VARIANCE_ADDED).sqrt().reshape(shape)


def dtype_of(tensor: TensorDescription) -> torch.dtype:
    """What an input of a network is fed: networks compute in fp32 whatever the uploaded dtype was."""
    names = {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool}
    return names.get(tensor.dtype, torch.float32)


def to_tensor(rows: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """A tensor of `dtype` that owns its memory; torch knows no foreign byte order, so that is turned first."""
    native = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))
    return torch.tensor(native, dtype=dtype)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "a single number"
