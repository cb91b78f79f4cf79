"""Which nodes OpenVINO makes of a file, how long they take, and which of them compute in integers."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import openvino as ov

from core.measure.kernels import Kernel
from core.measure.openvino_engine import compile_for, request_for
from core.measure.profile import RUNS, WARM_UP_RUNS, NodeTime, TimeShares, share_out
from core.measure.runtime import Feed

PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
INTEGERS = frozenset({"u8", "i8"})
# What lies between floats and integers; where it is fused with a product it is not seen. A subgraph of elementwise
# operators is one when it reads or writes integers.
CONVERSIONS = frozenset({"Convert", "FakeQuantize", "Quantize", "Reorder"})
SUBGRAPH = "Subgraph"


@dataclass(frozen=True, slots=True)
class OpenvinoProfile:
    """What one file becomes in OpenVINO at the sizes of one feed."""

    shares: TimeShares
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    operation: ov.Node
    names: tuple[str, ...]
    kind: str
    integer: bool
    writes_integers: bool


def profile_openvino(path: Path, feed: Feed, layers: Sequence[str], *, threads: int) -> OpenvinoProfile:
    """Profile a file in OpenVINO; raises `runtime_failed`."""
    compiled = compile_for(path, feed, threads, profiled=True)
    request = request_for(compiled, feed)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(WARM_UP_RUNS + RUNS):
        request.infer()
        for info in request.get_profiling_info():
            times[info.node_name].append(info.real_time.total_seconds())
    nodes = list(_nodes(compiled))
    spent = [_spent(node, times) for node in nodes]
    return OpenvinoProfile(share_out(spent, layers), tuple(_kernel(node) for node in nodes if node.kind in PRODUCTS))


def _nodes(compiled: ov.CompiledModel) -> Iterator[_Node]:
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = {name: str(value.astype(str)) for name, value in operation.get_rt_info().items()}
        precision, written = facts.get("runtimePrecision", ""), facts.get("outputPrecisions", "")
        yield _Node(
            operation=operation,
            names=(operation.get_friendly_name(), *facts.get("originalLayersNames", "").split(",")),
            kind=facts.get("layerType", ""),
            integer=precision in INTEGERS,
            writes_integers=bool(INTEGERS & set(written.lower().split(","))),
        )


def _spent(node: _Node, times: dict[str, list[float]]) -> NodeTime:
    durations = times.get(node.names[0], [0.0])[WARM_UP_RUNS:] or [0.0]
    rounds = node.kind == SUBGRAPH and (node.integer or node.writes_integers)
    return NodeTime(
        names=node.names,
        operator=node.kind,
        duration=statistics.median(durations),
        integer=node.kind in PRODUCTS and node.integer,
        conversion=node.kind in CONVERSIONS or rounds,
    )


def _kernel(node: _Node) -> Kernel:
    inputs = [tuple(each.get_shape()) for each in node.operation.inputs()]
    # A transposed convolution spreads each input over the outputs, where others gather each output from inputs.
    ends = inputs[0] if node.kind == "Deconvolution" else tuple(node.operation.output(0).get_shape())
    if "onvolution" in node.kind:
        # Weights are (groups, ends, others, *kernel) where there are groups, else (ends, others, *kernel).
        terms = math.prod(inputs[1][2:] if len(inputs[1]) > len(ends) else inputs[1][1:])
        rows = math.prod(ends) // max(ends[1], 1)
    else:
        terms, rows = inputs[0][-1], math.prod(ends) // max(ends[-1], 1)
    return Kernel(
        names=node.names,
        macs=math.prod(ends) * terms,
        rows=rows,
        integer=node.integer,
        weighted=node.kind != "MatMul",
    )
