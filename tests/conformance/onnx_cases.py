"""The node tests and simple models inside the `onnx` package, run through the reader operator by operator."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from core.errors import ModelpressError
from core.network.gate_onnx import check_onnx
from core.network.onnx_operators import OPERATORS
from core.network.onnx_operators.recurrent import RECURRENT
from core.network.read_onnx import load_module

# How many cases pass, of how many, and why the others do not; docs/operators.md shows it.
EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())
Arrays = list[NDArray[np.generic]]
# What a network computes in fp32 is compared as that, whatever type the case is in.
TOLERANCES = {"bfloat16": 2e-2, "float16": 5e-3, "float64": 1e-4, "float32": 1e-4}
FILES = ("simple", "pytorch-operator", "pytorch-converted")


@dataclass
class Tally:
    """How many cases of an operator are the same as the standard says, and why the others are not."""

    passed: int = 0
    total: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str | None) -> None:
        self.total += 1
        if reason is None:
            self.passed += 1
        else:
            self.failures[name] = reason


def run_nodes() -> dict[str, Tally]:
    """The node tests of every listed operator; expansions of functions are cases of other operators and left out."""
    tallies: dict[str, Tally] = {}
    for operator, cases in cases_by_operator().items():
        for case in cases:
            model, sets = case.model, case.data_sets
            reason = next(filter(None, (_differs(model, list(i), list(o), case) for i, o in sets)), None)
            tallies.setdefault(operator, Tally()).add(case.name, reason)
    return tallies


@cache
def cases_by_operator() -> dict[str, list[TestCase]]:
    """The node tests of every listed operator."""
    found: dict[str, list[TestCase]] = {}
    for case in _load("node"):
        operator = _operator(case)
        if operator is not None:
            found.setdefault(operator, []).append(case)
    return dict(sorted(found.items()))


def run_models() -> dict[str, Tally]:
    """The whole models of the package that have their data beside them, by folder; none may be missing an operator."""
    tallies: dict[str, Tally] = {}
    for kind in FILES:
        for case in _load(kind):
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            operators = {node.op_type for node in model.graph.node}
            if operators <= {*OPERATORS, "Constant", "Shape", "Size", "If"} and _is_default(model):
                reasons = [_differs(model, *data, case) for data in _stored(Path(case.model_dir), model)]
                tallies.setdefault(kind, Tally()).add(case.name, next(filter(None, reasons), None))
    return dict(sorted(tallies.items()))


def _load(kind: str) -> list[TestCase]:
    """The cases of a kind; making them overflows on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind=kind)


def _operator(case: TestCase) -> str | None:
    if "_expanded" in case.name or case.model is None or not _is_default(case.model):
        return None
    operators = [node.op_type for node in case.model.graph.node]
    known = len(operators) == 1 and operators[0] in {*OPERATORS, "Constant", "Shape", "Size"}
    return operators[0] if known else None


def _is_default(model: onnx.ModelProto) -> bool:
    return all(node.domain in ("", "ai.onnx") for node in model.graph.node)


def _stored(folder: Path, model: onnx.ModelProto) -> Iterator[tuple[Arrays, Arrays]]:
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]
    for data in sorted(folder.glob("test_data_set_*")):
        yield (
            [_read(data / f"input_{index}.pb") for index in range(len(given))],
            [_read(data / f"output_{index}.pb") for index in range(len(model.graph.output))],
        )


def _read(path: Path) -> NDArray[np.generic]:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _differs(model: onnx.ModelProto, inputs: Arrays, outputs: Arrays, case: TestCase) -> str | None:
    """Why the case is not the same as the standard says; None where it is."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = _run(model, inputs)
    except ModelpressError as error:
        return f"{error.code}: {error.detail}"
    return next(filter(None, (_apart(*pair, case) for pair in zip(made, outputs, strict=True))), None)


def _run(model: onnx.ModelProto, inputs: Arrays) -> list[torch.Tensor]:
    pinned, given = pin_inputs(model, inputs)
    return list(load_module(check_onnx(pinned))(*given))


def pin_inputs(model: onnx.ModelProto, inputs: Arrays) -> tuple[onnx.ModelProto, list[torch.Tensor]]:
    """The model with inputs that must be constants (sizes, axes, limits) stored in it, and the other inputs."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    static = {name for node in model.graph.node for name in _static_inputs(node)}
    stored = {tensor.name for tensor in model.graph.initializer}
    values = dict(zip((value.name for value in model.graph.input if value.name not in stored), inputs, strict=True))
    for name in static & values.keys():
        pinned.graph.initializer.append(numpy_helper.from_array(np.asarray(values.pop(name)), name))
    return pinned, [_as_tensor(value) for value in values.values()]


def _static_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Inputs that are read as constants only: sizes, axes and limits, and the weights of recurrent cells."""
    positions = OPERATORS[node.op_type].static if node.op_type in OPERATORS else frozenset()
    for position in {*positions, *((1, 2, 3) if node.op_type in RECURRENT else ())}:
        if position < len(node.input) and node.input[position]:
            yield node.input[position]


def _as_tensor(value: object) -> torch.Tensor:
    """An input as the network takes it; raises where it is of no type that is read."""
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    if not isinstance(array, np.ndarray | np.generic):
        raise ModelpressError("unsupported_graph", "An input is no tensor.")
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array, np.float32))
    if array.dtype.kind not in "iub" or array.dtype.name not in ("bool", "int8", "uint8", "int16", "int32", "int64"):
        raise ModelpressError("unsupported_graph", f"An input is of type {array.dtype.name}.")
    return torch.from_numpy(np.array(array))


def _apart(made: torch.Tensor, value: object, case: TestCase) -> str | None:
    wanted = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    if tuple(made.shape) != wanted.shape:
        return f"the shape is {tuple(made.shape)} and not {wanted.shape}"
    if wanted.dtype.kind not in "fiub" and wanted.dtype.name != "bfloat16":
        return f"the type {wanted.dtype} is not computed"
    tolerance = max(TOLERANCES.get(wanted.dtype.name, 0.0), case.rtol if wanted.dtype.kind == "f" else 0.0)
    found, expected = made.double().numpy(), wanted.astype(np.float64)
    close = np.allclose(found, expected, rtol=tolerance, atol=max(case.atol, tolerance / 10), equal_nan=True)
    return None if close else "the numbers differ"
