"""Arithmetic on sizes: ONNX nodes over small integer arrays that may hold symbolic sizes, as NumPy object arrays."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from core.network.onnx_operators.call import Call

# Integers, or objects where a size is symbolic.
Array = NDArray[np.generic]


def _axes(call: Call, axes: Array | None) -> tuple[int, ...]:
    listed = call.integers("axes") if axes is None else [int(axis) for axis in axes.ravel()]
    return tuple(listed or ())


def _cut(call: Call, x: Array, *limits: Array) -> Array:
    given = [[int(v) for v in limit.ravel()] for limit in limits]
    starts = given[0] if given else call.integers("starts") or []
    ends = given[1] if len(given) > 1 else call.integers("ends") or []
    axes = given[2] if len(given) > 2 else call.integers("axes") or list(range(len(starts)))
    steps = given[3] if len(given) > 3 else [1] * len(starts)
    if 0 in steps:
        call.refuse("it steps by 0")
    parts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # The lowest end of a slice that runs backwards means before the first.
        parts[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(parts)]


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(x, _axes(call, axes))


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(call, axes) or None)


def _gather(call: Call, x: Array, indices: Array) -> Array:
    return np.asarray(np.take(x, indices.astype(np.int64), call.integer("axis", 0)))


def _product(call: Call, x: Array, axes: Array | None = None) -> Array:
    keep = bool(call.integer("keepdims", 1))
    return np.asarray(np.prod(x, axis=_axes(call, axes) or None, keepdims=keep))  # type: ignore[arg-type]  # numbers or symbolic sizes


def _cast(call: Call, x: Array) -> Array:
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return x.astype(np.float32) if call.integer("to", 0) in floats else x


def _divide(x: Array, y: Array) -> Array:
    exact = x.dtype.kind == "f" or y.dtype.kind == "f"
    return np.divide(x, y) if exact else np.floor_divide(x, y)


def _where(condition: Array, x: Array, y: Array) -> Array:
    return np.asarray(np.where(condition.astype(bool), x, y))


def _binary(run: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _call, x, y: np.asarray(run(x, y))


SIZES: Mapping[str, Callable[..., Array]] = {
    "Gather": _gather,
    "Concat": lambda call, *arrays: np.concatenate(arrays, call.integer("axis", 0)),
    "Slice": _cut,
    "Transpose": lambda call, x: np.transpose(x, call.integers("perm")),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": lambda _call, x, sizes: x.reshape([int(size) for size in sizes]),
    "Identity": lambda _call, x: x,
    "Cast": _cast,
    "ReduceProd": _product,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divide),
    "Sqrt": lambda _call, x: np.sqrt(x.astype(np.float32)),
    "Mod": _binary(np.mod),
    "Equal": _binary(np.equal),
    "Where": lambda _call, condition, x, y: _where(condition, x, y),
}
