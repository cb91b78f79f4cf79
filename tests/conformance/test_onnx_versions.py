"""Every version of each listed operator from opset 7 on is read as it is; the converter of `onnx` would add nothing."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.defs import OpSchema
from onnxruntime.capi import onnxruntime_pybind11_state as stock

from core.errors import ModelpressError
from core.network.gate_onnx import check_onnx
from core.network.onnx_operators import OPERATORS
from core.network.onnx_version import OLDEST_OPSET, convert
from core.network.read_onnx import load_module
from tests.conformance.onnx_cases import cases_by_operator, pin_inputs

SCHEMAS = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
NEWEST = onnx.defs.onnx_opset_version()
# Cases that stand for a version, of those that its rules allow.
SOME = 2
# Inputs that were attributes of another name.
RENAMED = {"K": "k", "constant_value": "value"}
# onnxruntime rounds places up where it shrinks images by opset 10, and takes other ones of equal elements.
DIFFERENT = frozenset({("Resize", 10), ("TopK", 11), ("TopK", 24)})
REFUSALS = (stock.Fail, stock.InvalidArgument, stock.InvalidGraph, stock.NotImplemented)
# Of what is newer, onnxruntime has few kernels.
NEWEST_STOCK = 24


def versions() -> Iterator[tuple[str, int]]:
    """Each operator and each opset from the oldest that is read on in which its rules changed."""
    for operator in cases_by_operator().keys() & OPERATORS.keys():
        since = sorted(schema.since_version for schema in SCHEMAS if schema.name == operator and not schema.deprecated)
        first = max((version for version in since if version <= OLDEST_OPSET), default=since[0])
        yield from ((operator, max(version, OLDEST_OPSET)) for version in since if version >= first)


def restate(case: TestCase, opset: int) -> tuple[onnx.ModelProto, list[object]] | None:
    """The case by the rules of an older opset, with its inputs; None where those do not allow it."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.opset_import[0].version, model.ir_version = opset, 8
    node, graph = model.graph.node[0], model.graph
    old = onnx.defs.get_schema(node.op_type, opset, "")
    arrays = [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in case.data_sets[0][0]]
    values = dict(zip((value.name for value in graph.input), arrays, strict=True))
    given = dict(zip((value.name for value in onnx.defs.get_schema(node.op_type).inputs), node.input, strict=False))
    for name in [name for name in given if RENAMED.get(name, name) in old.attributes and given[name]]:
        node.attribute.append(_as_attribute(old.attributes[RENAMED.get(name, name)], values.pop(given.pop(name))))
    _give_inputs(model, old, given)
    kept = [attribute for attribute in node.attribute if attribute.name in old.attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    left = [value for value in graph.input if value.name in values]
    del graph.input[:]
    graph.input.extend(left)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return None
    return model, list(values.values())


def _give_inputs(model: onnx.ModelProto, old: OpSchema, given: dict[str, str]) -> None:
    """Name the inputs in the order of the old rules; what they require and the case leaves out is empty."""
    node = model.graph.node[0]
    if old.inputs[-1].option == OpSchema.FormalParameterOption.Variadic:
        return
    places = list(node.input)
    inputs = [
        given.get(value.name, places[index] if index < len(places) and places[index] in given.values() else "")
        for index, value in enumerate(old.inputs)
    ]
    for index, value in enumerate(old.inputs):
        if not inputs[index] and value.option == OpSchema.FormalParameterOption.Single:
            inputs[index] = f"empty_{index}"
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), inputs[index]))
    while inputs and not inputs[-1]:
        inputs.pop()
    del node.input[:]
    node.input.extend(inputs)


def _as_attribute(attribute: OpSchema.Attribute, value: object) -> onnx.AttributeProto:
    several = attribute.type in (OpSchema.AttrType.INTS, OpSchema.AttrType.FLOATS)
    real = attribute.type in (OpSchema.AttrType.FLOAT, OpSchema.AttrType.FLOATS)
    numbers = np.asarray(value, np.float32 if real else None).ravel().tolist()
    kind = onnx.AttributeProto.AttributeType.Value(attribute.type.name)
    return helper.make_attribute(attribute.name, numbers if several else numbers[0], attr_type=kind)


def read(model: onnx.ModelProto, inputs: list[object]) -> list[torch.Tensor] | None:
    """What the graph makes, run as plain torch; None where it is refused."""
    try:
        pinned, given = pin_inputs(model, inputs)
        with torch.no_grad():
            return list(load_module(check_onnx(pinned))(*given))
    except ModelpressError:
        return None


def run_stock(model: onnx.ModelProto, inputs: list[object]) -> list[np.ndarray] | None:
    """What onnxruntime makes; None where it has no kernel for the types of the case."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    named = zip((value.name for value in model.graph.input), map(np.asarray, inputs), strict=True)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, dict(named))
    except (RuntimeError, *REFUSALS):
        return None


def _agree(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    same = tuple(ours.shape) == theirs.shape
    return same and np.allclose(ours.double(), theirs.astype(np.float64), rtol=5e-3, atol=1e-4, equal_nan=True)


@pytest.mark.slow
def test_each_version_is_read_as_onnxruntime_runs_it_and_conversion_reads_no_more() -> None:
    torch.set_num_threads(1)
    compared: dict[tuple[str, int], int] = defaultdict(int)
    known, different = set(), set()
    for operator, opset in versions():
        for case in cases_by_operator()[operator]:
            restated = restate(case, opset)
            if restated is None or compared[operator, opset] >= SOME:
                continue
            made = read(*restated)
            if made is None:
                converted = convert(restated[0], NEWEST)
                assert converted is None or read(converted, restated[1]) is None, (case.name, opset)
                continue
            known.add((operator, opset))
            wanted = run_stock(*restated)
            if wanted is None:
                continue
            compared[operator, opset] += 1
            if not all(_agree(*pair) for pair in zip(made, wanted, strict=True)):
                different.add((operator, opset))
    assert different == DIFFERENT
    assert set(versions()) == known
    assert all(compared[key] for key in known if key[1] <= NEWEST_STOCK)


def test_operators_that_the_standard_has_replaced_are_read() -> None:
    replaced = {schema.name for schema in SCHEMAS if schema.deprecated}
    # Only these are other operators after conversion.
    assert replaced <= OPERATORS.keys()
