"""ONNX operators that pick, sort, mark and write elements by index."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, static
from core.network.onnx_operators.elementwise import DTYPES

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather_points(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """GatherND: the last dimension of `indices` is a position in x after `batch_dims`."""
    batch, depth = call.integer("batch_dims", 0), indices.shape[-1]
    grids = [
        torch.arange(size).reshape([-1 if axis == index else 1 for index in range(indices.dim() - 1)])
        for axis, size in enumerate(x.shape[:batch])
    ]
    points = [_wrapped(indices[..., place], x.shape[batch + place]) for place in range(depth)]
    return x[(*grids, *points)]


def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """ScatterElements, and the older Scatter."""
    axis, reduction = call.integer("axis", 0), call.text("reduction", "none")
    places = _wrapped(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    if reduction == "add":
        return x.scatter_add(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


def scatter_points(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """ScatterND without reduction, or with sums."""
    reduction = call.text("reduction", "none")
    if reduction not in ("none", "add"):
        call.refuse(f"reduction {reduction} is not read")
    points = tuple(_wrapped(indices[..., place], x.shape[place]) for place in range(indices.shape[-1]))
    return x.index_put(points, updates, accumulate=reduction == "add")


def mark(call: Call, indices: Tensor, depth: list[int], values: Tensor) -> Tensor:
    """OneHot: `values` are (off, on)."""
    axis, size = call.integer("axis", -1), depth[0]
    marked = _wrapped(indices.long(), int(size)).unsqueeze(-1) == torch.arange(int(size))
    return torch.where(marked, values[1], values[0]).movedim(-1, axis)


def take_largest(call: Call, x: Tensor, amount: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """TopK: values and positions."""
    count = amount[0] if amount else call.integer("k", 1)
    found = torch.topk(x, count, call.integer("axis", -1), bool(call.integer("largest", 1)), sorted=True)
    return found.values, found.indices


def accumulate(call: Call, x: Tensor, axis: list[int]) -> Tensor:
    """CumSum, from either end, with or without the element itself."""
    total = x.flip(axis[0]) if call.integer("reverse", 0) else x
    summed = total.cumsum(axis[0], dtype=x.dtype)
    summed = summed - total if call.integer("exclusive", 0) else summed
    return summed.flip(axis[0]) if call.integer("reverse", 0) else summed


def mark_largest(call: Call, x: Tensor) -> Tensor:
    """Hardmax: 1 at the first largest element; before opset 13 all dimensions from `axis` on are one."""
    axis = call.integer("axis", -1 if call.opset >= 13 else 1)
    rows = x if call.opset >= 13 else x.flatten(axis % x.dim())
    axis = axis if call.opset >= 13 else -1
    marked = F.one_hot(rows.argmax(axis), rows.shape[axis]).to(x.dtype)
    return marked.movedim(-1, axis).reshape(x.shape)


def contract(call: Call, *tensors: Tensor) -> Tensor:
    """Einsum."""
    return torch.einsum(call.text("equation", "").replace(" ", ""), *tensors)


def make_diagonal(call: Call, like: Tensor) -> Tensor:
    """EyeLike: ones on diagonal `k`."""
    number = call.integer("dtype", 0)
    if number and number not in DTYPES:
        call.refuse("its type is not read")
    ones = torch.ones(like.shape, dtype=DTYPES[number] if number else like.dtype)
    offset = call.integer("k", 0)
    return ones.triu(offset).tril(offset)


def reverse(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """ReverseSequence: the first `lengths` steps of each sequence backwards."""
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)
    steps = torch.arange(x.shape[time]).unsqueeze(1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    places = places if time < batch else places.t()
    return torch.gather(x, time, places.reshape([*places.shape, *[1] * (x.dim() - 2)]).expand(x.shape))


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices that count from the end, counted from the start."""
    return torch.where(indices < 0, indices + size, indices).long()


INDEXING: Mapping[str, Operator] = {
    "CumSum": static(accumulate, 1),
    "Einsum": Operator(contract),
    "EyeLike": Operator(make_diagonal),
    "GatherND": Operator(gather_points),
    "Hardmax": Operator(mark_largest),
    "OneHot": static(mark, 1),
    "ReverseSequence": Operator(reverse),
    "Scatter": Operator(scatter_elements),
    "ScatterElements": Operator(scatter_elements),
    "ScatterND": Operator(scatter_points),
    "TopK": static(take_largest, 1),
}
