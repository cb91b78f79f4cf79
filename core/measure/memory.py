"""Memory of an ONNX file: what its graph plans for, and what a process needs that runs it."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from core.errors import ModelpressError
from core.measure.engine import ONNXRUNTIME, RuntimeName
from core.measure.optimised import TracedGraph, trace_optimised
from core.measure.runtime import Feed, count_samples, open_session, zero_feed
from core.network.liveness import find_peak

PROBE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Medians over fresh processes that load a file and run it; spreads are largest minus smallest."""

    peak_rss_bytes: int
    spread_bytes: int
    runtime_bytes: int
    load_ms: float
    batch: int


def planned_peak_bytes(model: Path | bytes, feed: Feed) -> int:
    """The planned peak of a file, run in onnxruntime with `feed`."""
    return plan_memory(trace_optimised(model, feed))


def plan_memory(traced: TracedGraph) -> int:
    """Peak, over the nodes in the order of the file, of the sum of bytes of live tensors that are no constants.

    A tensor lives from the node that makes it (an input: from the start) to the last node that reads it (an output: to
    the end). Reuse of memory in place is not counted.
    """
    graph = traced.graph
    sizes = {name: tensor.nbytes for name, tensor in traced.tensors.items()}
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
    """Measured memory and load time of each file in onnxruntime, on zeros; raises `runtime_failed`.

    `sizes` has by name what stands for free sizes besides the batch.
    """
    feeds = [zero_feed(open_session(path, threads, optimisation="none"), batch, sizes) for path in paths]
    return tuple(_summarise(rows, batch) for rows in _take_turns(paths, feeds, Probe(ONNXRUNTIME, threads, repeats)))


@dataclass(frozen=True, slots=True)
class Probe:
    """How memory is measured: in which runtime, with how many threads, how often."""

    runtime: RuntimeName
    threads: int
    repeats: int = 3


def probe_pair(original: Path, result: Path, feed: Feed, probe: Probe) -> tuple[ProcessMemory, ProcessMemory]:
    """Measured memory and load time of two files on zeros in the shapes of a feed; raises `runtime_failed`."""
    batch = count_samples(open_session(original, probe.threads, optimisation="none"), feed)
    before, after = _take_turns((original, result), [feed, feed], probe)
    return _summarise(before, batch), _summarise(after, batch)


def _take_turns(paths: tuple[Path, ...], feeds: Sequence[Feed], probe: Probe) -> list[list[dict[str, float]]]:
    """What fresh processes answer that take turns, by file."""
    answers: list[list[dict[str, float]]] = [[] for _ in paths]
    for _ in range(probe.repeats):
        for index, (path, feed) in enumerate(zip(paths, feeds, strict=True)):
            shapes = {name: [str(rows.dtype), list(rows.shape)] for name, rows in feed.items()}
            arguments = (probe.runtime, str(probe.threads), json.dumps(shapes))
            answers[index].append(_probe(path, arguments))
    return answers


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
