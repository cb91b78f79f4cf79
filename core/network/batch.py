"""The batch: its size made free where the export baked it in, and proved by comparing samples one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from core.errors import ModelpressError
from core.network.batch_sizes import free_sizes
from core.network.sampling import draw_inputs

# Samples must agree, whatever the batch they are in, to this fraction of the largest output.
TOLERANCE = 1e-4
_SAMPLES = 3
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ModelpressError)


@dataclass(frozen=True)
class Batch:
    """The graph to use, and whether its batch is free; `size` is the only batch that a fixed one takes."""

    graph: fx.GraphModule
    state: Literal["dynamic", "freed", "fixed"]
    reason: str | None
    size: int | None


def free_batch(graph: fx.GraphModule, example: Sequence[torch.Tensor], *, declared: bool, seed: int) -> Batch:
    """Make the batch of a lifted graph free, if it can be; `declared` says that the file calls it free already.

    What was freed is compared with the graph as it was, sample by sample, at batch 1, 2 and 3.
    """
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in example}
    if len(sizes) != 1 or 0 in sizes:
        return Batch(graph, "fixed", "The inputs do not share a first dimension.", max(sizes, default=1))
    size = sizes.pop()
    inputs = draw_inputs(graph, example, batch=_SAMPLES, seed=seed)
    try:
        shapes = [tuple(output.shape) for output in _run(graph, example)]
        if any(shape[:1] != (size,) for shape in shapes):
            return Batch(graph, "fixed", "An output does not have the batch as its first dimension.", size)
        reference = _run_in_chunks(graph, inputs, size)
    except _ERRORS as error:
        raise ModelpressError("unsupported_graph", f"The network cannot be run: {_line(error)}") from error
    reason = _compare(graph, inputs, reference)
    if reason is None:
        return Batch(graph, "dynamic" if declared else "freed", None, None)
    freed = free_sizes(graph, example, lambda candidate: _compare(candidate, inputs, reference) is None)
    return Batch(graph, "fixed", reason, size) if freed is None else Batch(freed, "freed", None, None)


def _run_in_chunks(graph: fx.GraphModule, inputs: Sequence[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Outputs of every sample, in batches of `size`; the last is filled up with the first sample."""
    count = inputs[0].shape[0]
    rows = [row if row < count else 0 for row in range(-(-count // size) * size)]
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    parts = [_run(graph, [tensor[chunk] for tensor in inputs]) for chunk in chunks]
    return [torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True)]


def _run(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        outputs = graph(*inputs)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _compare(graph: fx.GraphModule, inputs: Sequence[torch.Tensor], reference: list[torch.Tensor]) -> str | None:
    """Why samples depend on their batch, or None where they do not."""
    for count in range(1, _SAMPLES + 1):
        try:
            outputs = _run(graph, [tensor[:count] for tensor in inputs])
        except _ERRORS as error:
            return f"It fails at batch {count}: {_line(error)}"
        for index, (output, expected) in enumerate(zip(outputs, reference, strict=True)):
            if output.shape != (count, *expected.shape[1:]):
                return f"Output {index} has shape {tuple(output.shape)} at batch {count}."
            limit = TOLERANCE * largest_finite(expected)
            if not torch.allclose(output.double(), expected[:count].double(), rtol=0, atol=limit, equal_nan=True):
                return f"At batch {count} a sample gives another output {index} than alone."
    return None


def largest_finite(tensor: torch.Tensor) -> float:
    """The largest magnitude in a tensor, infinities and NaN left out."""
    finite = tensor[tensor.isfinite()].double().abs()
    return float(finite.max()) if finite.numel() else 0.0


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
