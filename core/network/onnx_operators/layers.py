"""ONNX operators with weights: convolutions and products."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator

Pads = list[tuple[int, int]]
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
    """The padding before and after each spatial dimension; `auto_pad` as the standard defines it."""
    taps = len(kernel)
    mode = call.text("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * taps
    if mode == "NOTSET":
        pads = call.integers("pads") or [0] * 2 * taps
        return list(zip(pads[:taps], pads[taps:], strict=True))
    result: Pads = []
    for size, reach, stride in zip(sizes, _reaches(call, kernel), call.integers("strides") or [1] * taps, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        small = total // 2
        result.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return result


def _reaches(call: Call, kernel: Sequence[int]) -> list[int]:
    dilations = call.integers("dilations") or [1] * len(kernel)
    return [(taps - 1) * dilation + 1 for taps, dilation in zip(kernel, dilations, strict=True)]


def pad_window(x: Tensor, pads: Pads, value: float) -> Tensor:
    """Pad the spatial dimensions of x (N, C, …)."""
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair], value=value)


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv: x (N, C, …), weight (M, C/group, taps…)."""
    taps = x.dim() - 2
    run = _CONVOLUTIONS.get(taps)
    if run is None:
        call.refuse(f"its input has {x.dim()} dimensions")
    pads = window_pads(call, x.shape[2:], weight.shape[2:])
    stride = call.integers("strides") or [1] * taps
    dilation = call.integers("dilations") or [1] * taps
    padding = [before for before, _ in pads]
    if any(before != after for before, after in pads):
        x, padding = pad_window(x, pads, 0.0), [0] * taps
    return run(x, weight, bias, stride, padding, dilation, call.integer("group", 1))


def convolve_transposed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ConvTranspose: weight (C, M/group, taps…); pads that differ before and after are cut off the full result."""
    taps = x.dim() - 2
    run = _TRANSPOSED.get(taps)
    if run is None:
        call.refuse(f"its input has {x.dim()} dimensions")
    stride, dilation = call.integers("strides") or [1] * taps, call.integers("dilations") or [1] * taps
    extra, groups = call.integers("output_padding") or [0] * taps, call.integer("group", 1)
    pads = _transposed_pads(call, x.shape[2:], weight.shape[2:], stride, extra)
    if all(before == after for before, after in pads):
        return run(x, weight, bias, stride, [before for before, _ in pads], extra, groups, dilation)
    full = run(x, weight, bias, stride, [0] * taps, extra, groups, dilation)
    return pad_window(full, [(-before, -after) for before, after in pads], 0.0)


def _transposed_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], extra: Sequence[int]
) -> Pads:
    """What is cut off at each end; from the wanted size where the node states one."""
    taps = len(kernel)
    mode = call.text("auto_pad", "NOTSET")
    wanted = call.integers("output_shape")
    if mode == "VALID" or (mode == "NOTSET" and wanted is None):
        pads = call.integers("pads") or [0] * 2 * taps
        return list(zip(pads[:taps], pads[taps:], strict=True))
    result: Pads = []
    for index, (size, reach) in enumerate(zip(sizes, _reaches(call, kernel), strict=True)):
        full = stride[index] * (size - 1) + extra[index] + reach
        total = full - (wanted[-taps:][index] if wanted else size * stride[index])
        small = total // 2
        result.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return result


def multiply_general(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gemm: alpha·x·w + beta·bias, either factor transposed."""
    x = x.t() if call.integer("transA", 0) else x
    weight = weight if call.integer("transB", 0) else weight.t()
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if alpha == 1.0 and (bias is None or (beta == 1.0 and bias.dim() == 1 and bias.shape[0] == weight.shape[0])):
        return F.linear(x, weight, bias)
    product = F.linear(x, weight) * alpha
    return product if bias is None else product + bias * beta


def multiply_matrices(_call: Call, x: Tensor, y: Tensor) -> Tensor:
    """MatMul, as NumPy defines it."""
    return torch.matmul(x, y)


LAYERS: Mapping[str, Operator] = {
    "Conv": Operator(convolve),
    "ConvTranspose": Operator(convolve_transposed),
    "Gemm": Operator(multiply_general),
    "MatMul": Operator(multiply_matrices),
}
