"""Which layer the time goes to, by the runtime's own profile."""

import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from core.measure.kernels import CONVERSIONS, INTEGER_KERNELS
from core.measure.runtime import Feed, open_session, run_session

RUNS = 20
WARM_UP_RUNS = 3
KERNEL_SUFFIX = "_kernel_time"
# What the runtime adds to the name of a node that it fuses or moves to another layout.
RUNTIME_MARKS = re.compile(r"^fused |_token_\d+$|_nchwc$")
AFTER_LAYER = ("", ".", "/", "_")


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Shares of the time of one run, from 0 to 1: by layer, of nodes between float and integer, of integer products.

    `operators` are the shares of all other operators by name.
    """

    layers: dict[str, float]
    conversions: float
    integer: float = 0.0
    operators: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeTime:
    """How long a node took; `names` are what its layer is found by."""

    names: tuple[str, ...]
    operator: str
    duration: float
    integer: bool
    conversion: bool


def share_time(path: Path, feed: Feed, layers: Sequence[str], *, threads: int) -> TimeShares:
    """Profile a file in onnxruntime; a node counts to the layer that its own name or that of an input begins with."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        session = open_session(path, threads, optimised_to=optimised, profile_to=Path(folder) / "profile")
        for _ in range(WARM_UP_RUNS + RUNS):
            run_session(session, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        inputs = {node.name: list(node.input) for node in onnx.load(optimised, load_external_data=False).graph.node}
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL_SUFFIX):
            name = event["name"].removesuffix(KERNEL_SUFFIX)
            times[name, event["args"]["op_name"]].append(float(event["dur"]))
    nodes = (
        NodeTime(
            names=(name, *inputs.get(name, ())),
            operator=operator,
            duration=statistics.median(durations[WARM_UP_RUNS:]),
            integer=operator in INTEGER_KERNELS,
            conversion=operator in CONVERSIONS,
        )
        for (name, operator), durations in times.items()
    )
    return share_out(nodes, layers)


def share_out(nodes: Iterable[NodeTime], layers: Sequence[str]) -> TimeShares:
    """The shares of nodes in the time of all."""
    every = list(nodes)
    total = sum(node.duration for node in every) or 1.0
    shares = dict.fromkeys(layers, 0.0)
    others: defaultdict[str, float] = defaultdict(float)
    for node in every:
        layer = find_layer(node.names, layers)
        if layer is not None:
            shares[layer] += node.duration / total
        if not node.integer and not node.conversion:
            others[node.operator] += node.duration / total
    conversions = sum(node.duration for node in every if node.conversion) / total
    integer = sum(node.duration for node in every if node.integer) / total
    return TimeShares(shares, conversions, integer, dict(others))


def find_layer(names: Sequence[str], layers: Sequence[str]) -> str | None:
    """The layer with the longest name that begins one of `names` and ends there or at a separator."""
    for name in names:
        plain = RUNTIME_MARKS.sub("", name)
        found = [
            layer for layer in layers if plain.startswith(layer) and plain[len(layer) : len(layer) + 1] in AFTER_LAYER
        ]
        if found:
            return max(found, key=len)
    return None
