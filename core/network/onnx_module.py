"""An ONNX graph as a module of torch: `weights` holds its constants, `forward` runs node after node."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from core.errors import ModelpressError
from core.network.flat import find, place
from core.network.onnx_names import WeightNames
from core.network.onnx_operators import OPERATORS
from core.network.onnx_operators.sizes import SIZES
from core.network.onnx_steps import MEASURES, Array, Step, Value, constant_of, fold, measure, static_operand, to_tensor


class OnnxModule(nn.Module):
    """The graph as a module: `weights` holds the constants, `forward` runs node after node."""

    def __init__(
        self,
        steps: list[Step],
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
            tensor = to_tensor(constants[name])
            trained = name in names.trained and tensor.is_floating_point()
            place(self.weights, path, nn.Parameter(tensor) if trained else tensor)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in the order of the graph."""
        values = self.evaluate(inputs)
        missing = next((name for name in self.outputs if name not in values), None)
        if missing is not None:
            raise ModelpressError(
                "unsupported_graph", f"Nothing that is read makes the output {missing}.", node=missing
            )
        return tuple(self.as_tensor(name, values[name]) for name in self.outputs)

    def evaluate(self, inputs: Sequence[torch.Tensor]) -> dict[str, Value]:
        """Every value of the graph by its name."""
        values: dict[str, Value] = {**self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for step in self.steps:
            self.run(step, values)
        return values

    def run(self, step: Step, values: dict[str, Value]) -> None:
        """Run one node; sizes stay Python numbers as long as only sizes go in."""
        call = step.call
        missing = next((name for name in step.inputs if name and name not in values), None)
        if missing is not None:
            raise ModelpressError(
                "corrupt_file", f"Node {call.name} reads {missing}, which nothing makes.", node=call.name
            )
        given = [values[name] if name else None for name in step.inputs]
        if step.branches:
            self.run_branch(step, given[0], values)
        elif call.operator == "Constant":
            values[step.node.output[0]] = constant_of(call)
        elif call.operator in MEASURES:
            values[step.node.output[0]] = measure(call, given[0].shape if given[0] is not None else ())
        elif any(isinstance(value, torch.Tensor) for value in given) or self.is_weight(step):
            self.run_torch(step, given, values)
        elif any(map(_is_free, given)) and call.operator in SIZES:
            sizes = SIZES[call.operator](call, *(value for value in given if value is not None))
            values[step.node.output[0]] = _settled(sizes)
        elif any(map(_is_free, given)):
            self.run_torch(step, given, values)
        else:
            values.update(zip(step.node.output, fold(step, given), strict=False))

    def run_branch(self, step: Step, condition: Value, values: dict[str, Value]) -> None:
        """Run the branch of an If that its condition chooses."""
        if not isinstance(condition, np.ndarray):
            step.call.refuse(
                f"its condition {step.inputs[0]} depends on the data; where it is always the same, store the "
                "input that decides it as a constant"
            )
        if _is_free(condition):
            step.call.refuse(
                f"its condition {step.inputs[0]} depends on a free size; export the network with a fixed one"
            )
        for inner in step.branches[0 if condition.any() else 1]:
            inner.check()
            self.run(inner, values)

    def is_weight(self, step: Step) -> bool:
        """Whether a node only transposes a stored weight, which must keep its identity."""
        return step.call.operator == "Transpose" and step.inputs[0] in self.names.paths

    def run_torch(self, step: Step, given: list[Value], values: dict[str, Value]) -> None:
        """Run one node as calls of torch, which are traced."""
        results = step.run([self.operand(step, index, value) for index, value in enumerate(given)])
        outputs = results if isinstance(results, tuple) else (results,)
        values.update(zip(step.node.output, outputs, strict=False))

    def operand(self, step: Step, index: int, value: Value) -> object:
        """An input as its operator wants it; a constant without dimensions may stay a number."""
        operator = OPERATORS[step.call.operator]
        if isinstance(value, np.ndarray) and index not in operator.static:
            if _is_free(value):
                step.call.refuse("a free size is used as a number")
            if operator.scalars and value.ndim == 0:
                return value.item()
            return self.as_tensor(step.inputs[index], value)
        return static_operand(step, index, value)

    def as_tensor(self, name: str, value: Value) -> torch.Tensor:
        """A value as a tensor: constants come from `weights`."""
        if isinstance(value, torch.Tensor):
            return value
        if name in self.names.paths:
            return find(self.weights, self.names.paths[name])
        return torch.tensor(value)


def _settled(sizes: Array) -> Array:
    """Plain integers where no free size is left, so that what follows is computed now."""
    symbolic = any(isinstance(size, (torch.SymInt, torch.SymBool)) for size in sizes.ravel())
    return sizes if symbolic or sizes.dtype != object else sizes.astype(np.int64)


def _is_free(value: Value) -> bool:
    """Whether a value is an array of sizes of which some are free."""
    return isinstance(value, np.ndarray) and value.dtype == object
