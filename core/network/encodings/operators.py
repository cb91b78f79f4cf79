"""Operators that exist only between `fx` and ONNX: QuantizeLinear, DequantizeLinear, and a fence.

Plain ATen arithmetic would be exported as arithmetic; these are exported as the nodes that onnxruntime fuses.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from onnxscript import opset20 as onnx_op
from torch import Tensor


@torch.library.custom_op("modelpress::quantize", mutates_args=())
def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    bounds = torch.iinfo(zero_point.dtype)
    return torch.clamp(torch.round(x / scale) + zero_point.float(), bounds.min, bounds.max).to(zero_point.dtype)


@_quantize.register_fake
def _quantize_shape(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001  torch fixes the signature
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("modelpress::dequantize", mutates_args=())
def _dequantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    shape = [-1 if i == axis else 1 for i in range(x.dim())] if scale.dim() else []
    value = x.float() if zero_point is None else x.float() - zero_point.float().reshape(shape)
    return value * scale.reshape(shape)


@_dequantize.register_fake
def _dequantize_shape(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:  # noqa: ARG001  torch fixes the signature
    return torch.empty_like(x, dtype=torch.float32)


@torch.library.custom_op("modelpress::clip", mutates_args=())
def _clip(x: Tensor, top: Tensor) -> Tensor:
    return torch.minimum(x, top)


@_clip.register_fake
def _clip_shape(x: Tensor, top: Tensor) -> Tensor:  # noqa: ARG001  torch fixes the signature
    return torch.empty_like(x)


@torch.library.custom_op("modelpress::dynamic_product", mutates_args=())
def _dynamic_product(x: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return x @ ((weight.float() - zero_point.float()) * scale)


@_dynamic_product.register_fake
def _dynamic_product_shape(x: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001  torch fixes the signature
    return x.new_empty((*x.shape[:-1], weight.shape[1]))


@torch.library.custom_op("modelpress::fence", mutates_args=())
def _fence(x: Tensor) -> Tensor:
    return x.clone()


@_fence.register_fake
def _fence_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x)


QUANTIZE: Callable[..., Tensor] = torch.ops.modelpress.quantize.default
DEQUANTIZE: Callable[..., Tensor] = torch.ops.modelpress.dequantize.default
# Of integers that use fewer than all 8 bits, cuts off what is above.
CLIP: Callable[..., Tensor] = torch.ops.modelpress.clip.default
# Rounds x in every run, and multiplies it with the integers of a weight (inputs, outputs).
DYNAMIC_PRODUCT: Callable[..., Tensor] = torch.ops.modelpress.dynamic_product.default
# Keeps a float layer float: onnxruntime quantizes, unasked, a layer that it finds between two rounded values.
FENCE: Callable[..., Tensor] = torch.ops.modelpress.fence.default


# The domain of nodes that are replaced before a file is written.
DOMAIN = "modelpress"
STORED = "Stored"


def stored(key: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Stands in the graph for a weight that is written when the ONNX graph is there; the exporter cannot fold it."""
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{STORED}", (), {"key": key}, dtype=dtype, shape=shape, version=1)


def _onnx_quantize(x, scale, zero_point):  # type: ignore[no-untyped-def]  # onnxscript's values have no public type
    return onnx_op.QuantizeLinear(x, scale, zero_point)


def _onnx_dequantize(x, scale, zero_point, axis):  # type: ignore[no-untyped-def]  # onnxscript's values have no public type
    return onnx_op.DequantizeLinear(x, scale, zero_point, axis=axis)


def _onnx_clip(x, top):  # type: ignore[no-untyped-def]  # onnxscript's values have no public type
    return onnx_op.Clip(x, None, top)


def _onnx_dynamic_product(x, weight, scale, zero_point):  # type: ignore[no-untyped-def]  # onnxscript's values have no public type
    integers, own_scale, own_zero = onnx_op.DynamicQuantizeLinear(x)
    sums = onnx_op.Cast(onnx_op.MatMulInteger(integers, weight, own_zero, zero_point), to=1)
    return onnx_op.Mul(sums, onnx_op.Mul(own_scale, scale))


def _onnx_fence(x):  # type: ignore[no-untyped-def]  # onnxscript's values have no public type
    # A sum of one; an Identity would be removed before it could help.
    return onnx_op.Sum(x)


ONNX_TRANSLATIONS: Mapping[Callable[..., object], Callable[..., object]] = {
    QUANTIZE: _onnx_quantize,
    DEQUANTIZE: _onnx_dequantize,
    CLIP: _onnx_clip,
    DYNAMIC_PRODUCT: _onnx_dynamic_product,
    FENCE: _onnx_fence,
}
