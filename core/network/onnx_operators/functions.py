"""ONNX operators on each element that few networks use: trigonometry, bits, tests, and rarer activations."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator
from core.network.onnx_operators.elementwise import binary, unary


def test_infinite(call: Call, x: Tensor) -> Tensor:
    """IsInf of both signs, or of one."""
    negative, positive = call.integer("detect_negative", 1), call.integer("detect_positive", 1)
    if negative and positive:
        return torch.isinf(x)
    if not negative and not positive:
        return torch.zeros_like(x, dtype=torch.bool)
    return x == (-math.inf if negative else math.inf)


def shift_bits(call: Call, x: Tensor, amount: Tensor) -> Tensor:
    """BitShift; there is no sign to carry, unsigned types of more than 8 bits are not read."""
    left = call.text("direction", "") == "LEFT"
    return torch.bitwise_left_shift(x, amount) if left else torch.bitwise_right_shift(x, amount)


def shrink(call: Call, x: Tensor) -> Tensor:
    """Shrink: x - bias above lambd, x + bias below -lambd, else 0."""
    limit, bias = call.number("lambd", 0.5), call.number("bias", 0.0)
    return torch.where(x > limit, x - bias, torch.where(x < -limit, x + bias, torch.zeros_like(x)))


def threshold(call: Call, x: Tensor) -> Tensor:
    """ThresholdedRelu."""
    return torch.where(x > call.number("alpha", 1.0), x, torch.zeros_like(x))


def swish(call: Call, x: Tensor) -> Tensor:
    """Swish: x·sigmoid(alpha·x)."""
    return x * torch.sigmoid(x * call.number("alpha", 1.0))


def average(_call: Call, *tensors: Tensor) -> Tensor:
    """Mean of any number of tensors."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total / len(tensors)


_UNARY: Mapping[str, Callable[..., Tensor]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Cosh": torch.cosh,
    "Sinh": torch.sinh,
    "Tan": torch.tan,
    "BitwiseNot": torch.bitwise_not,
}
_BINARY: Mapping[str, Callable[..., Tensor]] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}

FUNCTIONS: Mapping[str, Operator] = {
    **{name: unary(run) for name, run in _UNARY.items()},
    **{name: binary(run) for name, run in _BINARY.items()},
    "BitShift": Operator(shift_bits),
    "IsInf": Operator(test_infinite),
    "Mean": Operator(average),
    "Shrink": Operator(shrink),
    "Swish": Operator(swish),
    "ThresholdedRelu": Operator(threshold),
}
