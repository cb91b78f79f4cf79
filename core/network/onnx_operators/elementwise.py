"""ONNX operators that work on each element: arithmetic, activations, comparisons, choices."""

from collections.abc import Callable, Mapping
from functools import reduce

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from core.network.onnx_operators.call import Call, Operator, static

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


def unary(run: Callable[[Tensor], Tensor]) -> Operator:
    """An operator of one tensor without attributes."""
    return Operator(lambda call, x: run(x))


def binary(run: Callable[..., Tensor]) -> Operator:
    """An operator of two operands, of which one may be a number."""

    def apply(call: Call, x: Operand, y: Operand) -> Tensor:
        return run(x, y)

    return Operator(apply, scalars=True)


def comparison(run: Callable[..., Tensor]) -> Operator:
    """An operator of two operands, of which the second may be a number."""

    def apply(call: Call, x: Operand, y: Operand) -> Tensor:
        return run(x if isinstance(x, Tensor) else torch.tensor(x), y)

    return Operator(apply, scalars=True)


def variadic(run: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of tensors, folded from the left."""
    return Operator(lambda call, *tensors: reduce(run, tensors))


def divide(x: Operand, y: Operand) -> Tensor:
    """Div: integers are divided towards zero."""
    whole = all(not (t.is_floating_point() if isinstance(t, Tensor) else isinstance(t, float)) for t in (x, y))
    return torch.div(x, y, rounding_mode="trunc") if whole else torch.div(x, y)  # type: ignore[arg-type]  # numbers are taken too


def multiply(x: Operand, y: Operand) -> Tensor:
    """Mul."""
    return torch.mul(x, y) if isinstance(x, Tensor) else torch.mul(y, x)  # type: ignore[arg-type]  # one of them is a tensor


def add(x: Operand, y: Operand) -> Tensor:
    """Add."""
    return torch.add(x, y) if isinstance(x, Tensor) else torch.add(y, x)  # type: ignore[arg-type]  # one of them is a tensor


def subtract(x: Operand, y: Operand) -> Tensor:
    """Sub."""
    return torch.sub(x, y) if isinstance(x, Tensor) else torch.rsub(y, x)  # type: ignore[arg-type]  # one of them is a tensor


def remainder(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Mod: the sign of the divisor, or of the dividend with `fmod`."""
    return torch.fmod(x, y) if call.integer("fmod", 0) else torch.remainder(x, y)


def choose(call: Call, condition: Tensor, x: Operand, y: Operand) -> Tensor:
    """Where."""
    return torch.where(condition, x, y)


def cast(call: Call, x: Tensor) -> Tensor:
    """Cast to a type of `DTYPES`."""
    to = call.integer("to", 0)
    if to not in DTYPES:
        call.refuse(f"the type {TensorProto.DataType.Name(to)} is not read")
    return x.to(DTYPES[to])


def clip(call: Call, x: Tensor, low: list[float] | None = None, high: list[float] | None = None) -> Tensor:
    """Clip; limits are attributes before opset 11 and inputs after it."""
    lowest = low[0] if low else call.attributes.get("min")
    highest = high[0] if high else call.attributes.get("max")
    if lowest is None and highest is None:
        return x
    return torch.clamp(x, lowest, highest)  # type: ignore[call-overload]  # attributes are numbers here


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


def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu with a slope that broadcasts."""
    return torch.where(x >= 0, x, x * slope)


ELEMENTWISE: Mapping[str, Operator] = {
    **{
        name: unary(run)
        for name, run in {
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
        }.items()
    },
    **{
        name: binary(run)
        for name, run in {
            "Add": add,
            "Sub": subtract,
            "Mul": multiply,
            "Div": divide,
            "Pow": torch.pow,
        }.items()
    },
    **{
        name: comparison(run)
        for name, run in {
            "Equal": torch.eq,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
        }.items()
    },
    **{
        name: variadic(run)
        for name, run in {
            "And": torch.logical_and,
            "Or": torch.logical_or,
            "Xor": torch.logical_xor,
            "Max": torch.maximum,
            "Min": torch.minimum,
            "Sum": torch.add,
        }.items()
    },
    "Mod": Operator(remainder),
    "Where": Operator(choose, scalars=True),
    "Cast": Operator(cast),
    "Clip": static(clip, 1, 2),
    "Gelu": Operator(gelu),
    "HardSigmoid": Operator(hard_sigmoid),
    "Elu": Operator(lambda call, x: F.elu(x, call.number("alpha", 1.0))),
    "Celu": Operator(lambda call, x: F.celu(x, call.number("alpha", 1.0))),
    "Selu": unary(F.selu),
    "LeakyRelu": Operator(lambda call, x: F.leaky_relu(x, call.number("alpha", 0.01))),
    "PRelu": Operator(prelu),
    "Softmax": Operator(softmax),
    "LogSoftmax": Operator(log_softmax),
    "Identity": Operator(lambda call, x: x),
    "Dropout": Operator(lambda call, x, *ratio_and_mode: x),
}
