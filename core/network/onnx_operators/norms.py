"""ONNX operators that normalise."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator


def normalise_batch(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """BatchNormalization in inference mode."""
    if call.integer("training_mode", 0) or call.outputs != 1:
        call.refuse("it is in training mode; call model.eval() before exporting")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.1, call.number("epsilon", 1e-5))


def normalise_layer(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
    """LayerNormalization over the dimensions from `axis` on; mean and inverse deviation where they are asked for."""
    axis, epsilon = call.integer("axis", -1) % x.dim(), call.number("epsilon", 1e-5)
    made = F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)
    if call.outputs == 1:
        return made
    axes = list(range(axis, x.dim()))
    variance = x.var(axes, unbiased=False, keepdim=True)
    return made, x.mean(axes, keepdim=True), torch.rsqrt(variance + epsilon)


def normalise_root(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """RMSNormalization over the dimensions from `axis` on."""
    shape = x.shape[call.integer("axis", -1) % x.dim() :]
    made = F.rms_norm(x, shape, None, call.number("epsilon", 1e-5))
    return made * scale


def normalise_instance(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.number("epsilon", 1e-5))


def normalise_group(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNormalization; before opset 21 scale and bias are given for each group."""
    groups = call.integer("num_groups", 1)
    if call.opset < 21 and scale.shape[0] == groups and x.shape[1] != groups:
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.number("epsilon", 1e-5))


def normalise_response(call: Call, x: Tensor) -> Tensor:
    """LRN: each channel divided by a sum of squares over its `size` neighbours."""
    size = call.integer("size", 1)
    padded = F.pad(x.square().flatten(2).unsqueeze(1), (0, 0, (size - 1) // 2, size // 2))
    summed = F.avg_pool2d(padded, (size, 1), 1).squeeze(1).reshape(x.shape)
    alpha, beta, bias = call.number("alpha", 1e-4), call.number("beta", 0.75), call.number("bias", 1.0)
    return x / (bias + alpha * summed) ** beta


def normalise_length(call: Call, x: Tensor) -> Tensor:
    """LpNormalization: vectors along `axis` of length 1; of length 0 they stay."""
    norm: Tensor = torch.linalg.vector_norm(x, call.integer("p", 2), call.integer("axis", -1), keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def normalise_variance(call: Call, x: Tensor) -> Tensor:
    """MeanVarianceNormalization."""
    axes = call.integers("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


NORMS: Mapping[str, Operator] = {
    "BatchNormalization": Operator(normalise_batch),
    "GroupNormalization": Operator(normalise_group),
    "InstanceNormalization": Operator(normalise_instance),
    "LayerNormalization": Operator(normalise_layer),
    "LpNormalization": Operator(normalise_length),
    "LRN": Operator(normalise_response),
    "MeanVarianceNormalization": Operator(normalise_variance),
    "RMSNormalization": Operator(normalise_root),
}
