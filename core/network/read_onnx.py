"""The ONNX reader: each node runs as plain torch, and `torch.export` makes the flat graph of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.utils._python_dispatch import _disable_current_modes

from core.description import TensorDescription
from core.errors import ModelpressError
from core.network.flat import FlatProgram, dominant_dtype, find, flatten_exported, place
from core.network.onnx_names import WeightNames, name_weights
from core.network.onnx_operators import OPERATORS
from core.network.onnx_operators.call import Attribute, Call, Result
from core.network.onnx_operators.elementwise import DTYPES
from core.network.onnx_operators.sizes import SIZES

Array = NDArray[np.generic]
Value = torch.Tensor | Array | None

# What a free size is while the graph is traced: not 0 or 1, which torch treats as special.
EXAMPLE_BATCH = 2
EXAMPLE_SIZE = 16
# A constant that the graph computes may not be larger than this.
MAX_FOLDED_BYTES = 256 * 1024**2
_MAKERS = frozenset({"ConstantOfShape", "Expand", "Tile", "Pad", "Range"})
_RUN_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, NotImplementedError, AttributeError)


def read_onnx(model: onnx.ModelProto) -> FlatProgram:
    """The flat program of a model that has passed the gate.

    Raises `unsupported_operator` or `unsupported_graph` with the node, `corrupt_file` where a tensor's bytes are wrong.
    """
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    stored = {tensor.name: _array(tensor) for tensor in graph.initializer}
    constants = dict(stored)
    steps = fold_constants([_Step.of(node, opset) for node in graph.node], constants)
    used = {name for step in steps for name in step.inputs} | {output.name for output in graph.output}
    sizes = {name: array.size for name, array in constants.items() if name in used}
    names = name_weights([step.node for step in steps], sizes, set(stored))
    inputs = tuple(_describe(value) for value in graph.input if value.name not in stored)
    module = _OnnxModule(steps, constants, names, [value.name for value in inputs], [v.name for v in graph.output])
    example = tuple(example_of(value) for value in inputs)
    return FlatProgram(
        graph=_trace(module, inputs, example),
        inputs=inputs,
        outputs=tuple(output.name for output in graph.output),
        example=example,
        dtype=dominant_dtype((str(array.dtype), array.nbytes) for array in stored.values()),
        opset=opset,
        producer=(model.producer_name or None) and model.producer_name[:100],
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


@dataclass(frozen=True)
class _Step:
    """A node with its attributes decoded."""

    node: onnx.NodeProto
    call: Call
    inputs: tuple[str, ...]

    @staticmethod
    def of(node: onnx.NodeProto, opset: int) -> "_Step":
        attributes = {attribute.name: _decode(node, attribute) for attribute in node.attribute}
        name = node.name or (node.output[0] if node.output else node.op_type)
        return _Step(node, Call(node.op_type, name, attributes, len(node.output), opset), tuple(node.input))

    def run(self, values: Sequence[object]) -> Result:
        """Run the node on torch values."""
        try:
            return OPERATORS[self.call.operator].run(self.call, *values)
        except _RUN_ERRORS as error:
            sentence = f"Node {self.call.name} ({self.call.operator}) does not fit its inputs: {_first_line(error)}"
            raise ModelpressError("unsupported_graph", sentence, node=self.call.name) from error


def fold_constants(steps: Sequence[_Step], constants: dict[str, Array]) -> list[_Step]:
    """Compute what depends on constants only into `constants`, and give the steps that are left.

    A transposed matrix stays: it may be the weight of a layer, under the name that the file gives it.
    """
    left = []
    for step in steps:
        if step.call.operator not in OPERATORS and step.call.operator not in ("Constant", "Shape", "Size"):
            step.call.refuse("the operator is not in the list of those that are read")
        known = all(name in constants for name in step.inputs if name)
        transposed = step.call.operator == "Transpose" and known and constants[step.inputs[0]].ndim == 2
        if step.call.operator == "Constant":
            constants[step.node.output[0]] = _constant(step.call)
        elif known and step.call.operator in ("Shape", "Size"):
            constants[step.node.output[0]] = _measure(step.call, constants[step.inputs[0]].shape)
        elif known and step.inputs and not transposed:
            results = _fold(step, [constants[name] if name else None for name in step.inputs])
            constants.update(zip(step.node.output, results, strict=False))
        else:
            left.append(step)
    return left


def example_of(value: TensorDescription) -> torch.Tensor:
    """An input of the described shape: zeros, free sizes as `EXAMPLE_BATCH` (first) and `EXAMPLE_SIZE`."""
    shape = [
        size if isinstance(size, int) else EXAMPLE_BATCH if index == 0 else EXAMPLE_SIZE
        for index, size in enumerate(value.shape)
    ]
    dtype = getattr(torch, value.dtype)
    return torch.zeros(shape, dtype=torch.float32 if dtype.is_floating_point else dtype)


def _fold(step: _Step, values: Sequence[Value]) -> list[Array]:
    """The outputs of a node whose inputs are all constants, also while torch traces."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        operands = [_operand(step, index, value, None) for index, value in enumerate(values)]
        if step.call.operator in _MAKERS:
            with FakeTensorMode(allow_non_fake_inputs=True):
                _check_size(step, step.run(operands))
        results = step.run(operands)
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]


def _check_size(step: _Step, made: Result) -> None:
    assert isinstance(made, torch.Tensor)
    size = made.numel() * made.element_size()
    if size > MAX_FOLDED_BYTES:
        raise ModelpressError(
            "unsupported_graph",
            f"Node {step.call.name} ({step.call.operator}) makes a constant of {size} bytes; "
            f"at most {MAX_FOLDED_BYTES} are allowed.",
            node=step.call.name,
        )


class _OnnxModule(nn.Module):
    """The graph as a module: `weights` holds the constants, `forward` runs node after node."""

    def __init__(
        self,
        steps: list[_Step],
        constants: Mapping[str, Array],
        names: WeightNames,
        inputs: list[str],
        outputs: list[str],
    ) -> None:
        super().__init__()
        self.steps, self.constants, self.names = steps, constants, names
        self.inputs, self.outputs = inputs, outputs
        self.weights = nn.Module()
        for name, path in names.paths.items():
            tensor = _tensor(constants[name])
            trained = name in names.trained and tensor.is_floating_point()
            place(self.weights, path, nn.Parameter(tensor) if trained else tensor)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in the order of the graph."""
        values: dict[str, Value] = {**self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for step in self.steps:
            self.run(step, values)
        return tuple(self.as_tensor(name, values[name]) for name in self.outputs)

    def run(self, step: _Step, values: dict[str, Value]) -> None:
        """Run one node; sizes stay Python numbers as long as only sizes go in."""
        call = step.call
        missing = next((name for name in step.inputs if name and name not in values), None)
        if missing is not None:
            raise ModelpressError(
                "corrupt_file", f"Node {call.name} reads {missing}, which nothing makes.", node=call.name
            )
        given = [values[name] if name else None for name in step.inputs]
        if call.operator in ("Shape", "Size"):
            values[step.node.output[0]] = _measure(call, given[0].shape if given[0] is not None else ())
        elif any(isinstance(value, torch.Tensor) for value in given):
            operands = [_operand(step, index, value, self) for index, value in enumerate(given)]
            results = step.run(operands)
            outputs = results if isinstance(results, tuple) else (results,)
            values.update(zip(step.node.output, outputs, strict=False))
        elif any(isinstance(value, np.ndarray) and value.dtype == object for value in given):
            if call.operator not in SIZES:
                call.refuse("a free size goes in")
            values[step.node.output[0]] = SIZES[call.operator](call, *(value for value in given if value is not None))
        else:
            values.update(zip(step.node.output, _fold(step, given), strict=False))

    def as_tensor(self, name: str, value: Value) -> torch.Tensor:
        """A value as a tensor: constants come from `weights`."""
        if isinstance(value, torch.Tensor):
            return value
        if name in self.names.paths:
            return find(self.weights, self.names.paths[name])
        assert value is not None
        return torch.tensor(value)


def _operand(step: _Step, index: int, value: Value, module: _OnnxModule | None) -> object:
    """An input as the operator wants it: a list of numbers, a number, or a tensor."""
    operator = OPERATORS[step.call.operator]
    if value is None:
        return None
    if index in operator.static:
        if isinstance(value, torch.Tensor):
            step.call.refuse(f"its input {step.inputs[index]} depends on the data")
        return value.ravel().tolist()
    if isinstance(value, torch.Tensor):
        return value
    if module is None:
        return _tensor(value)
    if operator.scalars and value.ndim == 0:
        return value.item()
    return module.as_tensor(step.inputs[index], value)


def _trace(
    module: _OnnxModule, inputs: tuple[TensorDescription, ...], example: tuple[torch.Tensor, ...]
) -> torch.fx.GraphModule:
    free = tuple(
        {index: Dim.AUTO for index, size in enumerate(value.shape) if isinstance(size, str)} for value in inputs
    )
    try:
        program = torch.export.export(module.eval(), example, dynamic_shapes=(free,))
    except _RUN_ERRORS as error:
        raise ModelpressError("unsupported_graph", f"The graph cannot be traced: {_first_line(error)}") from error
    return flatten_exported(program, prefix="weights.")


def _measure(call: Call, shape: Sequence[int]) -> Array:
    """Shape or Size of a tensor."""
    if call.operator == "Size":
        return _sizes([math.prod(shape)]).reshape(())
    return _sizes(list(shape)[call.integer("start", 0) : call.integer("end", len(shape))])


def _sizes(sizes: Sequence[int]) -> Array:
    symbolic = any(isinstance(size, torch.SymInt) for size in sizes)
    return np.array(sizes, dtype=object if symbolic else np.int64)


def _tensor(array: Array) -> torch.Tensor:
    known = array if array.dtype.kind in "fiub" else array.astype(np.float32)
    tensor = torch.from_numpy(np.array(known))
    return tensor.float() if tensor.is_floating_point() else tensor


def _array(tensor: onnx.TensorProto) -> Array:
    if tensor.data_type not in DTYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ModelpressError("unsupported_graph", f"Tensor {tensor.name} is of type {kind}.", node=tensor.name)
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelpressError(
            "corrupt_file", f"Tensor {tensor.name}: {_first_line(error)}", node=tensor.name
        ) from error
    return array


def _constant(call: Call) -> Array:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in call.attributes:
            value = call.attributes[name]
            return (
                value if isinstance(value, np.ndarray) else np.array(value, np.float32 if "float" in name else np.int64)
            )
    call.refuse("its value is no tensor of numbers")


def _decode(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Attribute:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, list) or attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    raise ModelpressError(
        "unsupported_operator", f"Node {node.name} ({node.op_type}) has a graph as attribute.", node=node.name
    )


def _describe(value: onnx.ValueInfoProto) -> TensorDescription:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise ModelpressError("unsupported_graph", f"Input {value.name} is no tensor of a type that is read.")
    if not kind.HasField("shape"):
        raise ModelpressError("unsupported_graph", f"Input {value.name} has no shape.", hint="Export it with a shape.")
    shape = tuple(
        size.dim_value if size.HasField("dim_value") else size.dim_param or f"{value.name}_{index}"
        for index, size in enumerate(kind.shape.dim)
    )
    return TensorDescription(name=value.name, dtype=_dtype_name(kind.elem_type), shape=shape)


def _dtype_name(element: int) -> str:
    halves = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
    name = halves.get(element) or ("float64" if element == onnx.TensorProto.DOUBLE else str(DTYPES[element]))
    return name.removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
