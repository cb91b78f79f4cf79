"""The nodes of an ONNX graph, decoded: constants to arrays, attributes to Python values, constant nodes computed."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from core.errors import ModelpressError
from core.network.onnx_operators import OPERATORS
from core.network.onnx_operators.call import Attribute, Call, Result
from core.network.onnx_operators.elementwise import DTYPES, type_name
from core.network.onnx_operators.quantized import INTEGER_OPERATORS
from core.network.onnx_outside import Maps, is_outside, map_tensor

Array = NDArray[np.generic]
Value = torch.Tensor | Array | None

# A constant that the graph computes may not be larger than this.
MAX_FOLDED_BYTES = 256 * 1024**2
MEASURES = ("Shape", "Size")
DEFAULT_DOMAINS = ("", "ai.onnx")
# What torch raises where inputs do not fit an operator.
RUN_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError)
# Stored integers of a few bits, as the next type that torch has.
_NARROW: Mapping[int, type[np.generic]] = {
    onnx.TensorProto.INT4: np.int8,
    onnx.TensorProto.UINT4: np.uint8,
    onnx.TensorProto.INT2: np.int8,
    onnx.TensorProto.UINT2: np.uint8,
    onnx.TensorProto.UINT16: np.int32,
    onnx.TensorProto.UINT32: np.int64,
}
_MAKERS = frozenset({"ConstantOfShape", "Expand", "Tile", "Pad", "Range"})


@dataclass(frozen=True)
class Step:
    """A node with its attributes decoded. `branches` are the steps of an If, where its condition holds and where not.

    What a branch reads from outside is among the inputs of its If. `refusal` is why a node cannot be read, where that
    is known before it is known whether it runs.
    """

    node: onnx.NodeProto
    call: Call
    inputs: tuple[str, ...]
    branches: tuple[tuple["Step", ...], ...] = ()
    refusal: ModelpressError | None = None

    @staticmethod
    def of(node: onnx.NodeProto, opset: int) -> "Step":
        """The step of a node of a graph of this opset; graphs among its attributes are left out."""
        attributes = {
            attribute.name: _decode(node, attribute)
            for attribute in node.attribute
            if not attribute.HasField("g") and not attribute.graphs
        }
        name = node.name or (node.output[0] if node.output else node.op_type)
        call = Call(node.op_type, name, attributes, _count_outputs(node), opset)
        return Step(node, call, tuple(node.input))

    def check(self) -> None:
        """Raises `unsupported_operator` where the node is none that is read."""
        operator = self.call.operator
        if self.refusal is not None:
            raise self.refusal
        if self.node.domain not in DEFAULT_DOMAINS:
            self.call.refuse(f"it is of the foreign domain {self.node.domain}")
        if operator in INTEGER_OPERATORS:
            self.call.refuse("the file is already quantized, and computes in integers")
        if operator in ("Loop", "Scan"):
            self.call.refuse("it is control flow")
        if operator not in OPERATORS and operator not in ("Constant", "If", *MEASURES):
            self.call.refuse("the operator is not in the list of those that are read")

    def run(self, values: Sequence[object]) -> Result:
        """Run the node on torch values."""
        try:
            return OPERATORS[self.call.operator].run(self.call, *values)
        except RUN_ERRORS as error:
            sentence = f"Node {self.call.name} ({self.call.operator}) does not fit its inputs: {first_line(error)}"
            raise ModelpressError("unsupported_graph", sentence, node=self.call.name) from error


def fold_constants(
    steps: Sequence[Step], constants: dict[str, Array], kept: frozenset[str] = frozenset()
) -> list[Step]:
    """Compute what depends on constants only into `constants`, and give the steps that are left.

    A transposed matrix stays: it may be the weight of a layer, under the name that the file gives it. What makes one of
    the names `kept` stays too.
    """
    left = []
    waiting = deque(steps)
    while waiting:
        step = waiting.popleft()
        step.check()
        known = all(name in constants for name in step.inputs[: 1 if step.branches else None] if name)
        known = known and kept.isdisjoint(step.node.output)
        transposed = step.call.operator == "Transpose" and known and _may_be_weight(constants[step.inputs[0]])
        if step.call.operator == "Constant" and known:
            constants[step.node.output[0]] = constant_of(step.call)
        elif known and step.branches:
            waiting.extendleft(reversed(step.branches[0 if constants[step.inputs[0]].any() else 1]))
        elif known and step.call.operator in MEASURES:
            constants[step.node.output[0]] = measure(step.call, constants[step.inputs[0]].shape)
        elif known and step.inputs and not transposed:
            results = fold(step, [constants[name] if name else None for name in step.inputs])
            constants.update(zip(step.node.output, results, strict=False))
        else:
            left.append(_fold_branches(step, constants) if step.branches else step)
    return left


def _fold_branches(step: Step, constants: dict[str, Array]) -> Step:
    """An If with the constants of its branches computed; what only one of them makes of its results stays in it."""
    kept = frozenset(step.node.output)
    branches = []
    for branch in step.branches:
        try:
            branches.append(tuple(fold_constants(branch, constants, kept)))
        except ModelpressError:
            # It says so itself where it is the branch that runs.
            branches.append(branch)
    return replace(step, branches=tuple(branches))


def _may_be_weight(constant: Array) -> bool:
    """Whether it is a matrix, and of no integers of 64 bits, which are sizes or pads."""
    return constant.ndim == 2 and constant.dtype != np.int64


def fold(step: Step, values: Sequence[Value]) -> list[Array]:
    """The outputs of a node whose inputs are all constants, also while torch traces."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        operands = [static_operand(step, index, value) for index, value in enumerate(values)]
        if step.call.operator in _MAKERS:
            with FakeTensorMode(allow_non_fake_inputs=True):
                _check_size(step, step.run(operands))
        results = step.run(operands)
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]


def _check_size(step: Step, made: Result) -> None:
    tensor = cast("torch.Tensor", made)
    size = tensor.numel() * tensor.element_size()
    if size > MAX_FOLDED_BYTES:
        raise ModelpressError(
            "graph_too_large",
            f"Node {step.call.name} ({step.call.operator}) makes a constant of {size} bytes; "
            f"at most {MAX_FOLDED_BYTES} are allowed.",
            node=step.call.name,
        )


def static_operand(step: Step, index: int, value: Value) -> object:
    """An input as its operator wants it: a list of numbers, or a tensor; None where it is left out."""
    if value is None or isinstance(value, torch.Tensor):
        if value is not None and index in OPERATORS[step.call.operator].static:
            step.call.refuse(f"its input {step.inputs[index]} depends on the data")
        return value
    if index in OPERATORS[step.call.operator].static:
        return value.ravel().tolist()
    return to_tensor(value)


def measure(call: Call, shape: Sequence[int]) -> Array:
    """Shape or Size of a tensor."""
    if call.operator == "Size":
        return _sizes([math.prod(shape)]).reshape(())
    return _sizes(list(shape)[call.integer("start", 0) : call.integer("end", len(shape))])


def _sizes(sizes: Sequence[int]) -> Array:
    symbolic = any(isinstance(size, torch.SymInt) for size in sizes)
    return np.array(sizes, dtype=object if symbolic else np.int64)


def to_tensor(array: Array) -> torch.Tensor:
    """A tensor of an array, floats as fp32; a weight that is mapped stays mapped."""
    known = array if array.dtype.kind in "fiub" else array.astype(np.float32)
    tensor = torch.from_numpy(known if isinstance(known, np.memmap) else np.array(known))
    return tensor.float() if tensor.is_floating_point() else tensor


def to_arrays(tensors: Iterable[onnx.TensorProto]) -> dict[str, Array]:
    """The numbers of stored tensors by name; a file that several are in is mapped once."""
    maps: Maps = {}
    return {tensor.name: to_array(tensor, maps) for tensor in tensors}


def to_array(tensor: onnx.TensorProto, maps: Maps | None = None) -> Array:
    """The numbers of a stored tensor; raises `unsupported_graph` or `corrupt_file`."""
    if tensor.data_type not in DTYPES and tensor.data_type not in _NARROW:
        sentence = f"Tensor {tensor.name} is of type {type_name(tensor.data_type)}."
        raise ModelpressError("unsupported_graph", sentence, node=tensor.name)
    try:
        outside = is_outside(tensor)
        array: Array = map_tensor(tensor, {} if maps is None else maps) if outside else numpy_helper.to_array(tensor)
        if tensor.data_type in _NARROW:
            array = array.astype(_NARROW[tensor.data_type])
    except (ValueError, TypeError) as error:
        raise ModelpressError("corrupt_file", f"Tensor {tensor.name}: {first_line(error)}", node=tensor.name) from error
    return array


def constant_of(call: Call) -> Array:
    """The array that a Constant holds; raises `unsupported_operator` where it holds no numbers."""
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in call.attributes:
            value = call.attributes[name]
            return (
                value if isinstance(value, np.ndarray) else np.array(value, np.float32 if "float" in name else np.int64)
            )
    return call.refuse("its value is no tensor of numbers")


def _decode(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Attribute:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return to_array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float)):
        return value
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [entry.decode(errors="replace") for entry in value]
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    sentence = f"Node {node.name} ({node.op_type}): attribute {attribute.name} is of a type that is not read."
    raise ModelpressError("unsupported_operator", sentence, node=node.name)


def _count_outputs(node: onnx.NodeProto) -> int:
    """How many outputs are asked for; those at the end may be left out by an empty name."""
    return max((index for index, name in enumerate(node.output, 1) if name), default=0)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
