"""ONNX operators of quantized files: weights that are only stored as integers become dense, other files stay."""

from collections.abc import Mapping

from torch import Tensor

from core.network.onnx_operators.call import Call, Operator

# What a file has that computes in integers: it was compressed before.
INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)


def dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """DequantizeLinear for a tensor, along an axis, or in blocks of it."""
    scale = _spread(call, scale, x)
    return (x.float() if zero is None else x.float() - _spread(call, zero, x).float()) * scale


def _spread(call: Call, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points in a shape that broadcasts to x."""
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if values.dim() == 1 and values.numel() > 1:
        return values.reshape([-1 if place == axis % x.dim() else 1 for place in range(x.dim())])
    return values


QUANTIZED: Mapping[str, Operator] = {"DequantizeLinear": Operator(dequantize)}
