"""ONNX operators that reduce dimensions."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, static


def reduction(run: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """A reduction; axes are an attribute in old opsets and an input in new ones."""

    def reduce(call: Call, x: Tensor, axes: list[int] | None = None) -> Tensor:
        axes = axes or call.integers("axes")
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.dim()))
        return run(x, axes, bool(call.integer("keepdims", 1)))

    return static(reduce, 1)


def argument(run: Callable[[Tensor, int, bool], Tensor]) -> Operator:
    """ArgMax or ArgMin; of equal elements the first, or the last."""

    def find(call: Call, x: Tensor) -> Tensor:
        axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
        if call.integer("select_last_index", 0):
            return x.shape[axis] - 1 - run(x.flip(axis), axis, keep)
        return run(x, axis, keep)

    return Operator(find)


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return cast("Tensor", torch.linalg.vector_norm(x, 2, axes, keep))


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


REDUCTIONS: Mapping[str, Operator] = {
    "ReduceMean": reduction(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL2": reduction(_norm),
    "ReduceL1": reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceLogSum": reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": reduction(torch.logsumexp),
    "ReduceProd": reduction(_product),
    "ReduceSumSquare": reduction(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "ArgMax": argument(torch.argmax),
    "ArgMin": argument(torch.argmin),
}
