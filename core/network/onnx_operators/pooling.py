"""ONNX operators that pool windows."""

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator
from core.network.onnx_operators.layers import pad_window, window_pads


def pool_max(call: Call, x: Tensor) -> Tensor:
    """MaxPool; padding never wins."""
    if call.outputs != 1:
        call.refuse("its indices are used")
    kernel = call.integers("kernel_shape") or []
    run = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(len(kernel))
    if run is None:
        call.refuse(f"its kernel has {len(kernel)} dimensions")
    pads = window_pads(call, x.shape[2:], kernel)
    padding = [before for before, _ in pads]
    if any(before != after or 2 * before > size for (before, after), size in zip(pads, kernel, strict=True)):
        x, padding = pad_window(x, pads, float("-inf")), [0] * len(kernel)
    stride = call.integers("strides") or [1] * len(kernel)
    dilation = call.integers("dilations") or [1] * len(kernel)
    return run(x, kernel, stride, padding, dilation, bool(call.integer("ceil_mode", 0)))


def pool_average(call: Call, x: Tensor) -> Tensor:
    """AveragePool without dilation."""
    kernel = call.integers("kernel_shape") or []
    run = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(len(kernel))
    if run is None or any(step != 1 for step in call.integers("dilations") or []):
        call.refuse("only undilated windows of one to three dimensions are read")
    pads = window_pads(call, x.shape[2:], kernel)
    counted, ceil = bool(call.integer("count_include_pad", 0)), bool(call.integer("ceil_mode", 0))
    stride = call.integers("strides") or [1] * len(kernel)
    if all(before == after and 2 * before <= size for (before, after), size in zip(pads, kernel, strict=True)):
        return run(x, kernel, stride, [before for before, _ in pads], ceil, counted)
    padded = run(pad_window(x, pads, 0.0), kernel, stride, 0, ceil, True)
    if counted:
        return padded
    # Means over the padded input, divided by how much of each window is no padding.
    return padded / run(pad_window(torch.ones_like(x[:1, :1]), pads, 0.0), kernel, stride, 0, ceil, True)


def pool_all_average(_call: Call, x: Tensor) -> Tensor:
    """GlobalAveragePool."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


def pool_all_max(_call: Call, x: Tensor) -> Tensor:
    """GlobalMaxPool."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


def pool_norm(call: Call, x: Tensor) -> Tensor:
    """LpPool: the p-norm of each window."""
    power = call.integer("p", 2)
    kernel = call.integers("kernel_shape") or []
    run = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(len(kernel))
    if run is None or any(step != 1 for step in call.integers("dilations") or []):
        call.refuse("only undilated windows of one to three dimensions are read")
    padded = pad_window(x.abs() ** power, window_pads(call, x.shape[2:], kernel), 0.0)
    stride = call.integers("strides") or [1] * len(kernel)
    means = run(padded, kernel, stride, 0, bool(call.integer("ceil_mode", 0)), True)
    return (means * math.prod(kernel)) ** (1 / power)


def pool_all_norm(call: Call, x: Tensor) -> Tensor:
    """GlobalLpPool."""
    return cast("Tensor", torch.linalg.vector_norm(x, call.integer("p", 2), list(range(2, x.dim())), keepdim=True))


POOLING: Mapping[str, Operator] = {
    "AveragePool": Operator(pool_average),
    "GlobalAveragePool": Operator(pool_all_average),
    "GlobalLpPool": Operator(pool_all_norm),
    "GlobalMaxPool": Operator(pool_all_max),
    "LpPool": Operator(pool_norm),
    "MaxPool": Operator(pool_max),
}
