"""Layers as products of matrices: the weight of a convolution, and the windows of its input that are multiplied by it.

A layer of `groups` groups is that many products: weight (groups, outputs, columns), inputs (groups, rows, columns).
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
Product = nn.Linear | Convolution
PRODUCTS: Final = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def as_matrix(layer: Product, weight: Tensor) -> Tensor:
    """`weight`, or anything in its shape, as (groups, outputs, columns)."""
    if isinstance(layer, nn.Linear):
        return weight.unsqueeze(0)
    grouped = weight.reshape(layer.groups, weight.shape[0] // layer.groups, *weight.shape[1:])
    if isinstance(layer, _TRANSPOSED):
        grouped = grouped.transpose(1, 2)
    return grouped.flatten(2)


def as_weight(layer: Product, matrix: Tensor) -> Tensor:
    """The opposite of `as_matrix`."""
    if isinstance(layer, nn.Linear):
        return matrix.squeeze(0)
    if isinstance(layer, _TRANSPOSED):
        inner = layer.in_channels // layer.groups
        spread = matrix.reshape(*matrix.shape[:2], inner, *layer.kernel_size)
        return spread.transpose(1, 2).reshape(layer.weight.shape)
    return matrix.reshape(layer.weight.shape)


def count_rows(layer: Product, value: Tensor) -> int:
    """How many rows the input `value` of a layer gives."""
    if isinstance(layer, nn.Linear):
        return value.numel() // value.shape[-1]
    windows = _windows(layer, value)
    return int(windows.shape[0] * math.prod(windows.shape[3 : 3 + len(layer.kernel_size)]))


def output_shape(layer: Product, value: Tensor) -> tuple[int, ...]:
    """The shape of what a layer gives for the input `value`."""
    if isinstance(layer, nn.Linear):
        return (*value.shape[:-1], layer.out_features)
    windows = _windows(layer, value)
    return (windows.shape[0], layer.out_channels, *windows.shape[3 : 3 + len(layer.kernel_size)])


def take_rows(layer: Product, value: Tensor, rows: Tensor | None = None) -> Tensor:
    """Rows of the input `value` of a layer, all or those at `rows` (int64): (groups, rows, columns).

    Multiplied by the transposed matrix of the weight they give the layer's outputs without its bias.
    """
    if isinstance(layer, nn.Linear):
        flat = value.flatten(0, -2)
        return (flat if rows is None else flat[rows]).unsqueeze(0)
    windows = _windows(layer, value)
    spatial = windows.shape[3 : 3 + len(layer.kernel_size)]
    if rows is None:
        rows = torch.arange(windows.shape[0] * math.prod(spatial))
    places = torch.unravel_index(rows, (windows.shape[0], *spatial))
    # (samples, positions …, groups, channels, taps …): a window is copied only where it is taken.
    dims = windows.dim()
    ordered = windows.permute(0, *range(3, 3 + len(spatial)), 1, 2, *range(3 + len(spatial), dims))
    taken = ordered[places]
    if isinstance(layer, _TRANSPOSED):
        taken = taken.flip(tuple(range(-len(spatial), 0)))
    return taken.flatten(2).transpose(0, 1)


def output_rows(layer: Product, value: Tensor, rows: Tensor) -> Tensor:
    """Of a tensor in the shape of a layer's output the rows at `rows` (int64): (groups, rows, outputs)."""
    if isinstance(layer, nn.Linear):
        return value.flatten(0, -2)[rows].unsqueeze(0)
    places = torch.unravel_index(rows, (value.shape[0], *value.shape[2:]))
    return value.movedim(1, -1)[places].reshape(len(rows), layer.groups, -1).transpose(0, 1)


def _windows(layer: Convolution, value: Tensor) -> Tensor:
    """A view (samples, groups, channels, positions …, taps …) of the padded input.

    Of a transposed convolution the taps run backwards.
    """
    taps, dilation = layer.kernel_size, layer.dilation
    if isinstance(layer, _TRANSPOSED):
        padded, stride = _spread_out(layer, value), (1,) * len(taps)
    else:
        padded, stride = F.pad(value, _padding(layer)), layer.stride
    windows = padded.reshape(padded.shape[0], layer.groups, -1, *padded.shape[2:])
    for axis, (size, gap, step) in enumerate(zip(taps, dilation, stride, strict=True)):
        windows = windows.unfold(3 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    return windows


def _padding(layer: Convolution) -> list[int]:
    """As `F.pad` takes it: last axis first, both ends of each."""
    if isinstance(layer.padding, str):
        return list(layer._reversed_padding_repeated_twice)
    return [side for size in reversed(layer.padding) for side in (size, size)]


def _spread_out(layer: Transposed, value: Tensor) -> Tensor:
    """The input with zeros between its values, over which a transposed convolution is an ordinary one."""
    stride: tuple[int, ...] = layer.stride
    taps: tuple[int, ...] = layer.kernel_size
    sizes = [(size - 1) * step + 1 for size, step in zip(value.shape[2:], stride, strict=True)]
    spread = value.new_zeros(*value.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = value
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of a transposed one never a word
    ends = [gap * (size - 1) - pad for gap, size, pad in zip(layer.dilation, taps, padding, strict=True)]
    extra = layer.output_padding
    pads = [(end, end + more) for end, more in zip(ends, extra, strict=True)]
    return F.pad(spread, [side for pair in reversed(pads) for side in pair])
