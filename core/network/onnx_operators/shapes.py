"""ONNX operators that move, cut, join and make tensors."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, static
from core.network.onnx_operators.elementwise import DTYPES

Sizes = list[int]
_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def reshape(call: Call, x: Tensor, sizes: Sizes) -> Tensor:
    """Reshape; 0 copies a size unless `allowzero`, -1 is what is left."""
    if not call.integer("allowzero", 0):
        sizes = [x.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(call: Call, x: Tensor) -> Tensor:
    """Flatten to two dimensions at `axis`."""
    axis = call.integer("axis", 1)
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.reshape(-1, 1)
    axis %= max(x.dim(), 1)
    return x.reshape(x.shape[:axis].numel(), -1)


def transpose(call: Call, x: Tensor) -> Tensor:
    """Transpose; without `perm` all dimensions are reversed."""
    return x.permute(call.integers("perm") or list(reversed(range(x.dim()))))


def squeeze(call: Call, x: Tensor, axes: Sizes | None = None) -> Tensor:
    """Squeeze the dimensions of size 1 that are named, or all of them."""
    axes = axes or call.integers("axes")
    return x.squeeze() if not axes else x.squeeze(tuple(axes))


def unsqueeze(call: Call, x: Tensor, axes: Sizes | None = None) -> Tensor:
    """Unsqueeze; axes count in the result."""
    axes = axes or call.integers("axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concatenate(call: Call, *tensors: Tensor) -> Tensor:
    """Concat along `axis`."""
    return torch.cat(tensors, call.integer("axis", 0))


def split(call: Call, x: Tensor, sizes: Sizes | None = None) -> tuple[Tensor, ...]:
    """Split along `axis` into given or equal parts."""
    axis = call.integer("axis", 0)
    sizes = sizes or call.integers("split")
    if not sizes:
        part = -(-x.shape[axis] // call.outputs)
        return torch.split(x, part, axis)
    return torch.split(x, sizes, axis)


def cut(
    call: Call,
    x: Tensor,
    starts: Sizes | None = None,
    ends: Sizes | None = None,
    axes: Sizes | None = None,
    steps: Sizes | None = None,
) -> Tensor:
    """Slice; a negative step runs backwards."""
    starts, ends = starts or call.integers("starts") or [], ends or call.integers("ends") or []
    axes = axes or call.integers("axes") or list(range(len(starts)))
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        position = axis % x.dim()
        if step < 0:
            size = x.shape[position]
            x = x.flip(position)
            start = size - 1 - (start if start >= 0 else start + size)  # noqa: PLW2901  # the same start, seen from the other end
            end = size if end < -size else size - 1 - (end if end >= 0 else end + size)  # noqa: PLW2901  # as above
            start, step = max(start, 0), -step  # noqa: PLW2901  # as above
        x = x[(slice(None),) * position + (slice(start, end, step),)]
    return x


def gather(call: Call, x: Tensor, indices: Tensor | int) -> Tensor:
    """Gather slices along `axis`; a matrix of floats gathered along its rows is an embedding."""
    axis = call.integer("axis", 0) % x.dim()
    if isinstance(indices, int):
        return x.select(axis, indices)
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(indices, x)
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    taken = torch.index_select(x, axis, wrapped.reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """GatherElements."""
    axis = call.integer("axis", 0)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def expand(_call: Call, x: Tensor | float, sizes: Sizes) -> Tensor:
    """Expand to the broadcast of both shapes."""
    tensor = x if isinstance(x, Tensor) else torch.tensor(x)
    lead = [1] * (len(sizes) - tensor.dim())
    own = [*lead, *tensor.shape]
    wanted = [*[1] * (len(own) - len(sizes)), *sizes]
    return tensor.expand([have if want == 1 else want for have, want in zip(own, wanted, strict=True)])


def tile(_call: Call, x: Tensor, repeats: Sizes) -> Tensor:
    """Tile."""
    return x.repeat(repeats)


def pad(
    call: Call, x: Tensor, pads: Sizes | None = None, value: list[float] | None = None, axes: Sizes | None = None
) -> Tensor:
    """Pad before and after each dimension, or each of `axes`."""
    pads = pads or call.integers("pads") or []
    axes = axes or list(range(len(pads) // 2))
    before, after = [0] * x.dim(), [0] * x.dim()
    for index, axis in enumerate(axes):
        before[axis], after[axis] = pads[index], pads[index + len(axes)]
    amounts = [amount for axis in reversed(range(x.dim())) for amount in (before[axis], after[axis])]
    mode = call.text("mode", "constant")
    if mode == "constant":
        return F.pad(x, amounts, value=value[0] if value else call.number("value", 0.0))
    while len(amounts) > 2 and amounts[-2:] == [0, 0]:
        amounts = amounts[:-2]
    if mode not in _PAD_MODES:
        call.refuse(f"mode {mode} is not read")
    return F.pad(x, amounts, mode=_PAD_MODES[mode])


def fill(call: Call, sizes: Sizes) -> Tensor:
    """ConstantOfShape."""
    value = call.attributes.get("value")
    number = value if isinstance(value, np.ndarray) else np.zeros(1, np.float32)
    dtype = torch.from_numpy(np.zeros(0, number.dtype)).dtype
    return torch.full(sizes, number.reshape(-1)[0].item(), dtype=dtype)


def count(_call: Call, start: list[float], limit: list[float], delta: list[float]) -> Tensor:
    """Range."""
    return torch.arange(start[0], limit[0], delta[0])


def triangle(call: Call, x: Tensor, diagonal: Sizes | None = None) -> Tensor:
    """Trilu: the upper or lower triangle."""
    offset = diagonal[0] if diagonal else 0
    return torch.triu(x, offset) if call.integer("upper", 1) else torch.tril(x, offset)


def cast_like(_call: Call, x: Tensor, like: Tensor) -> Tensor:
    """CastLike."""
    return x.to(like.dtype if like.dtype in DTYPES.values() else torch.float32)


SHAPES: Mapping[str, Operator] = {
    "Reshape": static(reshape, 1),
    "Flatten": Operator(flatten),
    "Transpose": Operator(transpose),
    "Squeeze": static(squeeze, 1),
    "Unsqueeze": static(unsqueeze, 1),
    "Concat": Operator(concatenate),
    "Split": static(split, 1),
    "Slice": static(cut, 1, 2, 3, 4),
    "Gather": Operator(gather, scalars=True),
    "GatherElements": Operator(gather_elements),
    "Expand": static(expand, 1),
    "Tile": static(tile, 1),
    "Pad": static(pad, 1, 2, 3),
    "ConstantOfShape": static(fill, 0),
    "Range": static(count, 0, 1, 2),
    "Trilu": static(triangle, 1),
    "CastLike": Operator(cast_like),
}
