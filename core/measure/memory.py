"""Memory of an ONNX file in onnxruntime: what its graph plans for, and what a process needs that runs it."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx

from core.errors import ModelpressError
from core.measure.onnx_graph import OnnxGraph, load_graph, trace_tensors
from core.measure.runtime import Feed, open_session
from core.network.liveness import find_peak

PROBE_SECONDS = 600
OPTIMISED_NAME = "optimised.onnx"


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Medians over fresh processes that load a file and run it; spreads are largest minus smallest."""

    peak_rss_bytes: int
    spread_bytes: int
    runtime_bytes: int
    load_ms: float
    batch: int


def planned_peak_bytes(model: Path | bytes, feed: Feed) -> int:
    """Peak, over the nodes in the order of the file, of the sum of bytes of live tensors that are no constants.

    A tensor lives from the node that makes it (an input: from the start) to the last node that reads it (an output: to
    the end). The graph is the runtime's own after its extended optimisations, so fused operators count as one; the
    layout optimisations are left out, since they depend on the CPU; where it cannot be run it is the file's own graph.
    Reuse of memory in place is not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / OPTIMISED_NAME
        open_session(model, 1, optimisation="extended", optimised_to=optimised)
        graph = load_graph(optimised)
        try:
            tensors = trace_tensors(graph, feed)
        except ModelpressError:
            # Optimised graphs inside of branches are written so that the runtime cannot always open them again.
            graph = OnnxGraph(onnx.load_from_string(model)) if isinstance(model, bytes) else load_graph(model)
            tensors = trace_tensors(graph, feed)
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    steps = [(node.input, node.output) for node in graph.nodes]
    return find_peak(steps, sizes, inputs=graph.inputs, outputs=graph.outputs).nbytes


def probe_memory(
    paths: tuple[Path, ...],
    *,
    batch: int,
    threads: int,
    repeats: int = 3,
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[ProcessMemory, ...]:
    """Measured memory and load time of each file, in fresh processes that take turns; raises `runtime_failed`.

    `sizes` has by name what stands for free sizes besides the batch.
    """
    arguments = (str(batch), str(threads), json.dumps(dict(sizes)))
    answers: list[list[dict[str, float]]] = [[] for _ in paths]
    for _ in range(repeats):
        for index, path in enumerate(paths):
            answers[index].append(_probe(path, arguments))
    return tuple(_summarise(rows, batch) for rows in answers)


def _probe(path: Path, arguments: tuple[str, ...]) -> dict[str, float]:
    command = [sys.executable, "-I", "-m", "core.measure.memory_probe", str(path), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=PROBE_SECONDS, text=True)
    except subprocess.SubprocessError as error:
        told = (getattr(error, "stderr", None) or "").strip().splitlines()
        why = told[-1] if told else type(error).__name__
        raise ModelpressError("runtime_failed", f"The process that measures memory failed: {why}") from error
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _summarise(rows: list[dict[str, float]], batch: int) -> ProcessMemory:
    peaks = [int(row["peak_rss_bytes"]) for row in rows]
    return ProcessMemory(
        peak_rss_bytes=int(statistics.median(peaks)),
        spread_bytes=max(peaks) - min(peaks),
        runtime_bytes=int(statistics.median(int(row["runtime_bytes"]) for row in rows)),
        load_ms=statistics.median(row["load_ms"] for row in rows),
        batch=batch,
    )
