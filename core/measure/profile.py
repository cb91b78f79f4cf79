"""Which layer the time goes to, by the runtime's own profile."""

import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from core.measure.runtime import Feed, open_session, run_session

RUNS = 20
WARM_UP_RUNS = 3
KERNEL_SUFFIX = "_kernel_time"
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What the runtime adds to the name of a node that it fuses or moves to another layout.
RUNTIME_MARKS = re.compile(r"^fused |_token_\d+$|_nchwc$")
AFTER_LAYER = ("", ".", "/", "_")


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Shares of the time of one run, from 0 to 1: by layer, and of the nodes between float and integer."""

    layers: dict[str, float]
    conversions: float


def share_time(path: Path, feed: Feed, layers: Sequence[str], *, threads: int) -> TimeShares:
    """Profile a file. A node counts to the layer whose name begins its own name or that of one of its inputs."""
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
    typical = {node: statistics.median(durations[WARM_UP_RUNS:]) for node, durations in times.items()}
    total = sum(typical.values()) or 1.0
    shares = dict.fromkeys(layers, 0.0)
    for (name, _), duration in typical.items():
        layer = find_layer([name, *inputs.get(name, ())], layers)
        if layer is not None:
            shares[layer] += duration / total
    conversions = sum(duration for (_, operator), duration in typical.items() if operator in CONVERSIONS)
    return TimeShares(shares, conversions / total)


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
