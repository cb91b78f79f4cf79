"""ONNX operators that work on each element: arithmetic, activations, comparisons, choices."""

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import cast as narrow

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, Result, static

Operand = Tensor | float
DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    # A network computes in fp32, whatever the upload computed in.
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float32,
}

# The constants alpha and gamma of Selu (Klambauer et al. 2017, arXiv 1706.02515).
_SELU = (1.6732632423543772, 1.0507009873554805)


def type_name(number: int) -> str:
    """The standard's name of an element type, or its number where there is none."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)


def unary(run: Callable[..., Tensor]) -> Operator:
    """An operator of one tensor without attributes."""
    return Operator(lambda _call, x: run(x))


def binary(run: Callable[..., Tensor]) -> Operator:
    """An operator of two operands, of which one may be a number."""

    def apply(_call: Call, x: Operand, y: Operand) -> Tensor:
        return run(x, y)

    return Operator(apply, scalars=True)


def comparison(run: Callable[..., Tensor]) -> Operator:
    """An operator of two operands, of which the second may be a number."""

    def apply(_call: Call, x: Operand, y: Operand) -> Tensor:
        return run(x if isinstance(x, Tensor) else torch.tensor(x), y)

    return Operator(apply, scalars=True)


def variadic(run: Callable[..., Tensor]) -> Operator:
    """An operator of any number of tensors, folded from the left."""
    return Operator(lambda _call, *tensors: reduce(run, tensors))


def divide(x: Operand, y: Operand) -> Tensor:
    """Div: integers are divided towards zero."""
    whole = all(not (t.is_floating_point() if isinstance(t, Tensor) else isinstance(t, float)) for t in (x, y))
    return torch.div(x, y, rounding_mode="trunc") if whole else torch.div(x, y)


def multiply(x: Operand, y: Operand) -> Tensor:
    """Mul."""
    return torch.mul(x, y) if isinstance(x, Tensor) else torch.mul(y, x)


def add(x: Operand, y: Operand) -> Tensor:
    """Add."""
    return torch.add(x, y) if isinstance(x, Tensor) else torch.add(y, x)


def subtract(x: Operand, y: Operand) -> Tensor:
    """Sub."""
    if isinstance(x, Tensor):
        return torch.sub(x, y)
    return torch.rsub(narrow("Tensor", y), x)


def remainder(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Mod: the sign of the divisor, or of the dividend with `fmod`."""
    return torch.fmod(x, y) if call.integer("fmod", 0) else torch.remainder(x, y)


def choose(_call: Call, condition: Tensor, x: Operand, y: Operand) -> Tensor:
    """Where."""
    return torch.where(condition, x, y)


def cast(call: Call, x: Tensor) -> Tensor:
    """Cast to a type of `DTYPES`."""
    to = call.integer("to", 0)
    if to not in DTYPES:
        call.refuse(f"the type {type_name(to)} is not read")
    return x.to(DTYPES[to])


def clip(call: Call, x: Tensor, low: list[float] | None = None, high: list[float] | None = None) -> Tensor:
    """Clip; limits are attributes before opset 11 and inputs after it."""
    lowest = low[0] if low else call.number("min", -math.inf)
    highest = high[0] if high else call.number("max", math.inf)
    if lowest == -math.inf:
        return x if highest == math.inf else torch.clamp(x, max=highest)
    return torch.clamp(x, lowest) if highest == math.inf else torch.clamp(x, lowest, highest)


def gelu(call: Call, x: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return F.gelu(x, approximate=call.text("approximate", "none"))


def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """HardSigmoid; the usual slope is one operator of torch."""
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def softmax(call: Call, x: Tensor) -> Tensor:
    """Softmax; before opset 13 all dimensions from `axis` on are one."""
    return _soft(call, x, torch.softmax)


def log_softmax(call: Call, x: Tensor) -> Tensor:
    """LogSoftmax; before opset 13 all dimensions from `axis` on are one."""
    return _soft(call, x, torch.log_softmax)


def _soft(call: Call, x: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    if call.opset >= 13:
        return run(x, call.integer("axis", -1))
    axis = call.integer("axis", 1) % x.dim()
    return run(x.flatten(axis), axis).reshape(x.shape)


def prelu(_call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu with a slope that broadcasts."""
    return torch.where(x >= 0, x, x * slope)


def selu(call: Call, x: Tensor) -> Tensor:
    """Selu; its usual constants are one operator of torch."""
    alpha, gamma = call.number("alpha", _SELU[0]), call.number("gamma", _SELU[1])
    if abs(alpha - _SELU[0]) < 1e-6 and abs(gamma - _SELU[1]) < 1e-6:
        return F.selu(x)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def drop(call: Call, x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None) -> Result:
    """Dropout, which does nothing in a trained network; its mask keeps everything."""
    if training is not None and bool(training):
        call.refuse("it is in training mode; call model.eval() before exporting")
    return (x, torch.ones_like(x, dtype=torch.bool)) if call.outputs > 1 else x


Run = Callable[..., Tensor]
_UNARY: Mapping[str, Run] = {
    "Relu": F.relu,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_BINARY: Mapping[str, Run] = {
    "Add": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Pow": torch.pow,
}
_COMPARISONS: Mapping[str, Run] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_VARIADIC: Mapping[str, Run] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}

ELEMENTWISE: Mapping[str, Operator] = {
    **{name: unary(run) for name, run in _UNARY.items()},
    **{name: binary(run) for name, run in _BINARY.items()},
    **{name: comparison(run) for name, run in _COMPARISONS.items()},
    **{name: variadic(run) for name, run in _VARIADIC.items()},
    "Mod": Operator(remainder),
    "Where": Operator(choose, scalars=True),
    "Cast": Operator(cast),
    "Clip": static(clip, 1, 2),
    "Gelu": Operator(gelu),
    "HardSigmoid": Operator(hard_sigmoid),
    "Elu": Operator(lambda call, x: F.elu(x, call.number("alpha", 1.0))),
    "Celu": Operator(lambda call, x: F.celu(x, call.number("alpha", 1.0))),
    "Selu": Operator(selu),
    "LeakyRelu": Operator(lambda call, x: F.leaky_relu(x, call.number("alpha", 0.01))),
    "PRelu": Operator(prelu),
    "Softmax": Operator(softmax),
    "LogSoftmax": Operator(log_softmax),
    "Identity": Operator(lambda _call, x: x),
    "Dropout": Operator(drop),
}
