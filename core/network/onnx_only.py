"""Models that are not read as networks: described from their own graph, as the runtime runs it."""

from collections import Counter
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort

from core.description import BATCH, LayerDescription, ModelDescription, TensorDescription
from core.errors import ModelpressError
from core.measure.costs import CONVOLUTIONS, PRODUCTS, TRANSPOSED_CONVOLUTIONS, count_macs
from core.measure.memory import planned_peak_bytes
from core.measure.onnx_graph import OnnxGraph, TensorCost, trace_tensors
from core.measure.roles import count_parameters
from core.measure.runtime import (
    DTYPES,
    RUNTIME_ERRORS,
    Feed,
    fixed_batch,
    free_name,
    input_axes,
    open_session,
    zero_feed,
)
from core.network.onnx_outside import bytes_outside
from core.network.onnx_version import opset_of
from core.network.strip import own_metadata, strip_onnx

# Reasons for which a file stays what it is; all others say that it cannot be used at all.
REASONS = frozenset({"unsupported_operator", "unsupported_graph", "parity_lost"})
# Tried for free sizes until the file runs; beyond so many tries nothing is learnt.
_SIZES = (16, 32, 48, 64, 128, 224, 256, 512, 1)
_MOST_FREE = 4
_WEIGHTS = {**CONVOLUTIONS, **TRANSPOSED_CONVOLUTIONS, "MatMul": 1, "Gemm": 1, "LSTM": 1, "GRU": 1, "RNN": 1}


def describe_onnx_only(model: onnx.ModelProto, reason: ModelpressError) -> ModelDescription:
    """The description of a checked model in mode `onnx_only`; raises `reason` where onnxruntime cannot run it either.

    Costs are those of one sample; operators inside of branches and loops are not counted.
    """
    session, feed, sizes = _runnable(model, reason)
    graph = OnnxGraph(model)
    tensors = trace_tensors(graph, feed)
    for name, constant in graph.constants.items():
        tensors[name] = TensorCost(tuple(constant.dims), 0)
    planned = planned_peak_bytes(model.SerializeToString(), feed)
    inputs = tuple(map(_describe, session.get_inputs(), input_axes(session)))
    fixed = fixed_batch(session) is not None
    return ModelDescription(
        format="onnx",
        mode="onnx_only",
        why=reason.detail,
        why_node=reason.node,
        opset=opset_of(model),
        producer=f"{model.producer_name} {model.producer_version}".strip()[:100] or None,
        inputs=inputs,
        outputs=tuple(_describe(entry, _counting_axis(entry, session)) for entry in session.get_outputs()),
        batch="fixed" if fixed else "dynamic",
        batch_reason="The file leaves no size free that all inputs share." if fixed else None,
        parameters=count_parameters(graph, tensors),
        macs=sum(count_macs(node, tensors) for node in graph.nodes),
        planned_activation_bytes=planned,
        counted_at=sizes,
        bytes_stripped=int(strip_onnx(model).ByteSize()) + bytes_outside(model),
        layers=tuple(_describe_layers(graph, tensors)),
        operators=dict(sorted(Counter(node.op_type for node in graph.nodes).items())),
        parity=None,
        metadata=own_metadata(model),
        warnings=(f"The file is used as it is (mode onnx_only): {reason.detail}",),
    )


def _runnable(model: onnx.ModelProto, reason: ModelpressError) -> tuple[ort.InferenceSession, Feed, dict[str, int]]:
    """A session of the file, inputs that it takes at one sample, and a number for each free size besides the batch."""
    try:
        session = open_session(model.SerializeToString(), 1, optimisation="none")
    except ModelpressError as error:
        raise reason from error
    entries = session.get_inputs()
    if not entries or any(entry.type not in DTYPES for entry in entries):
        raise reason
    # Sizes of the same name are one.
    free = list(
        dict.fromkeys(
            free_name(entry, axis)
            for entry, counted in zip(entries, input_axes(session), strict=True)
            for axis, size in enumerate(entry.shape)
            if axis != counted and not isinstance(size, int)
        )
    )
    for size in _SIZES:
        for choice in product((size, 1), repeat=min(len(free), _MOST_FREE)):
            numbers = dict(zip(free, (*choice, *[size] * len(free)), strict=False))
            feed = zero_feed(session, 1, numbers)
            try:
                session.run(None, feed)
            except RUNTIME_ERRORS:
                continue
            return session, feed, numbers
    raise reason


def _describe(entry: ort.NodeArg, counted: int | None) -> TensorDescription:
    dtype = DTYPES.get(entry.type, entry.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(
        size if isinstance(size, int) else BATCH if axis == counted else free_name(entry, axis)
        for axis, size in enumerate(entry.shape or ())
    )
    return TensorDescription(name=entry.name, dtype=dtype, shape=shape)


def _counting_axis(entry: ort.NodeArg, session: ort.InferenceSession) -> int | None:
    """The axis of an output that has the name of the batch, or the first where that is free."""
    names = {
        inlet.shape[axis]
        for inlet, axis in zip(session.get_inputs(), input_axes(session), strict=True)
        if axis is not None and isinstance(inlet.shape[axis], str)
    }
    shape = list(entry.shape or ())
    found = next((axis for axis, size in enumerate(shape) if size in names), None)
    return 0 if found is None and shape and not isinstance(shape[0], int) else found


def _describe_layers(graph: OnnxGraph, tensors: dict[str, TensorCost]) -> list[LayerDescription]:
    rows: dict[str, LayerDescription] = {}
    owners: dict[str, str] = {}
    for node in graph.nodes:
        position = _WEIGHTS.get(node.op_type)
        if position is None or len(node.input) <= position or node.input[position] not in graph.constants:
            continue
        name = node.name or node.output[0]
        weight = tensors[node.input[position]].shape
        owner = owners.setdefault(node.input[position], name)
        others = [other for other in node.input if other in graph.constants] if owner == name else []
        output = tensors.get(node.output[0], TensorCost((), 0))
        rows[name] = LayerDescription(
            name=name,
            kind=_kind(node, weight),
            weight_shape=weight,
            output_shape=output.shape,
            parameters=sum(int(np.prod(tensors[other].shape)) for other in others),
            macs=count_macs(node, tensors),
            activation_bytes=output.nbytes,
            tied_to=None if owner == name else owner,
        )
    return list(rows.values())


def _kind(node: onnx.NodeProto, weight: tuple[int, ...]) -> str:
    if node.op_type in CONVOLUTIONS:
        return f"conv{len(weight) - 2}d"
    return "linear" if node.op_type in PRODUCTS else node.op_type.lower()
