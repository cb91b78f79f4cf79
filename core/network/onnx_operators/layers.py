"""ONNX operators with weights, pooling and normalisation."""

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
    """ConvTranspose with symmetric pads: weight (C, M/group, taps…)."""
    taps = x.dim() - 2
    run = _TRANSPOSED.get(taps)
    pads = call.integers("pads") or [0] * 2 * taps
    if run is None or call.text("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in call.attributes:
        call.refuse("only explicit pads are read")
    if pads[:taps] != pads[taps:]:
        call.refuse("its pads differ before and after")
    stride = call.integers("strides") or [1] * taps
    dilation = call.integers("dilations") or [1] * taps
    extra = call.integers("output_padding") or [0] * taps
    return run(x, weight, bias, stride, pads[:taps], extra, call.integer("group", 1), dilation)


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


def normalise_batch(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """BatchNormalization in inference mode."""
    if call.integer("training_mode", 0) or call.outputs != 1:
        call.refuse("it is in training mode; call model.eval() before exporting")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.1, call.number("epsilon", 1e-5))


def normalise_layer(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """LayerNormalization over the dimensions from `axis` on."""
    if call.outputs != 1:
        call.refuse("its mean or deviation is used")
    shape = x.shape[call.integer("axis", -1) :]
    return F.layer_norm(x, shape, scale, bias, call.number("epsilon", 1e-5))


def normalise_instance(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.number("epsilon", 1e-5))


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
    padding = [before for before, _ in pads]
    counted = bool(call.integer("count_include_pad", 0))
    if any(before != after for before, after in pads):
        if not counted:
            call.refuse("its pads differ before and after and are not counted")
        x, padding = pad_window(x, pads, 0.0), [0] * len(kernel)
    stride = call.integers("strides") or [1] * len(kernel)
    return run(x, kernel, stride, padding, bool(call.integer("ceil_mode", 0)), counted)


def pool_all_average(_call: Call, x: Tensor) -> Tensor:
    """GlobalAveragePool."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


def pool_all_max(_call: Call, x: Tensor) -> Tensor:
    """GlobalMaxPool."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


LAYERS: Mapping[str, Operator] = {
    "Conv": Operator(convolve),
    "ConvTranspose": Operator(convolve_transposed),
    "Gemm": Operator(multiply_general),
    "MatMul": Operator(multiply_matrices),
    "BatchNormalization": Operator(normalise_batch),
    "LayerNormalization": Operator(normalise_layer),
    "InstanceNormalization": Operator(normalise_instance),
    "MaxPool": Operator(pool_max),
    "AveragePool": Operator(pool_average),
    "GlobalAveragePool": Operator(pool_all_average),
    "GlobalMaxPool": Operator(pool_all_max),
}
