"""The batch: its size made free where the export baked it in, and proved by comparing samples one by one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from core.errors import ModelpressError
from core.network.batch_axes import Axes, Reading, Shape, baked_readings, batch_size, named_readings
from core.network.batch_sizes import free_sizes
from core.network.sampling import draw_inputs, resized

# Samples must agree, whatever the batch they are in, to this fraction of the largest output.
TOLERANCE = 1e-4
# Each reading runs the graph some times, and a file may name as many free sizes as it likes.
MOST_READINGS = 8
_SAMPLES = 3
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ModelpressError)


@dataclass(frozen=True)
class Batch:
    """The graph to use, and whether its batch is free; `size` is the only batch that a fixed one takes, if it has one.

    `inputs` and `outputs` have the axis of each that counts samples.
    """

    graph: fx.GraphModule
    state: Literal["dynamic", "freed", "fixed"]
    reason: str | None
    size: int | None
    inputs: Axes
    outputs: Axes


@dataclass(frozen=True)
class _Attempt:
    """What one reading of the inputs came to: a graph and the axes of its outputs, or the reason why not."""

    graph: fx.GraphModule | None
    outputs: Axes
    reason: str | None


def free_batch(graph: fx.GraphModule, example: Sequence[torch.Tensor], shapes: Sequence[Shape], *, seed: int) -> Batch:
    """Make the batch of a lifted graph free, if it can be; `shapes` are the inputs' as the file states them.

    What was freed is compared with the graph as it was, sample by sample, at batch 1, 2 and 3.
    Raises `unsupported_graph` where the graph cannot be run.
    """
    try:
        outputs = len(_run(graph, example))
    except _ERRORS as error:
        raise ModelpressError("unsupported_graph", f"The network cannot be run: {_line(error)}") from error
    reasons: list[tuple[Reading, str]] = []
    for reading in _readings(example, shapes):
        attempt = _free_along(graph, example, reading.axes, seed)
        if attempt.graph is not None:
            declared = reading.named and attempt.graph is graph
            state: Literal["dynamic", "freed"] = "dynamic" if declared else "freed"
            return Batch(attempt.graph, state, None, None, reading.axes, attempt.outputs)
        reasons.append((reading, str(attempt.reason)))
    whole = [(reading, reason) for reading, reason in reasons if reading.whole]
    if whole:
        reading, reason = whole[0]
        size = batch_size([tensor.shape for tensor in example], reading.axes)
        return Batch(graph, "fixed", reason, size, reading.axes, (None,) * outputs)
    nothing = (None,) * len(example)
    return Batch(graph, "fixed", _why_not_shared(shapes), None, nothing, (None,) * outputs)


def _readings(example: Sequence[torch.Tensor], shapes: Sequence[Shape]) -> Iterator[Reading]:
    """The ways to read the inputs as batches, each once; those that fit only some of the inputs come last."""
    sizes = [tuple(tensor.shape) for tensor in example]
    named = list(named_readings(shapes))
    seen: set[Axes] = set()
    whole = [reading for reading in named if reading.whole]
    partial = [reading for reading in named if not reading.whole]
    for reading in (*whole[:MOST_READINGS], *baked_readings(sizes), *partial[:MOST_READINGS]):
        if reading.axes not in seen and batch_size(sizes, reading.axes) is not None:
            seen.add(reading.axes)
            yield reading


def _free_along(graph: fx.GraphModule, example: Sequence[torch.Tensor], axes: Axes, seed: int) -> _Attempt:
    """Free the batch along the axes, by rewriting what was baked in where that is needed."""
    size = batch_size([tensor.shape for tensor in example], axes) or 1
    samples = _Samples(draw_inputs(graph, resized(example, axes, _SAMPLES), seed=seed), axes, size)
    try:
        chunks = [_run(graph, samples.rows(rows)) for rows in samples.chunks()]
    except _ERRORS as error:
        return _Attempt(None, (), f"The network cannot be run: {_line(error)}")
    outputs, reason = _compare(graph, samples, chunks)
    if reason is None:
        return _Attempt(graph, outputs, None)
    freed = free_sizes(graph, example, axes, lambda candidate: _compare(candidate, samples, chunks)[1] is None)
    if freed is None:
        return _Attempt(None, (), reason)
    return _Attempt(freed, _compare(freed, samples, chunks)[0], None)


@dataclass(frozen=True)
class _Samples:
    """Drawn samples, stacked along the axes; `size` of them at once are what the graph takes for certain."""

    stacked: tuple[torch.Tensor, ...]
    axes: Axes
    size: int

    def rows(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """The inputs for some of the samples; what is not counted is the same for all."""
        index = torch.tensor(rows)
        return [
            tensor if axis is None else tensor.index_select(axis, index)
            for tensor, axis in zip(self.stacked, self.axes, strict=True)
        ]

    def chunks(self) -> list[list[int]]:
        """The samples in batches of `size`; the last is filled up with the first sample."""
        rows = [row if row < _SAMPLES else 0 for row in range(-(-_SAMPLES // self.size) * self.size)]
        return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]


def _run(graph: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        outputs = graph(*inputs)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _compare(
    graph: fx.GraphModule, samples: _Samples, chunks: Sequence[Sequence[torch.Tensor]]
) -> tuple[Axes, str | None]:
    """The axes along which outputs count samples, and why samples depend on their batch, or None where they do not."""
    made: dict[int, list[torch.Tensor]] = {}
    for count in range(1, _SAMPLES + 1):
        try:
            made[count] = _run(graph, samples.rows(range(count)))
        except _ERRORS as error:
            return (), f"It fails at batch {count}: {_line(error)}"
    turned = _run(graph, samples.rows(range(_SAMPLES)[::-1]))
    axes = tuple(map(_counting_axis, made[_SAMPLES], made[1]))
    for index, axis in enumerate(axes):
        outputs = {count: outputs[index] for count, outputs in made.items()}
        parts = [chunk[index] for chunk in chunks]
        if axis is None or any(part.dim() <= axis or part.shape[axis] != samples.size for part in parts):
            return axes, f"Output {index} has no size that grows with the batch."
        reason = _compare_output(outputs, turned[index], parts, axis)
        if reason is not None:
            return axes, f"Output {index} {reason}"
    return axes, None


def _compare_output(
    made: Mapping[int, torch.Tensor], turned: torch.Tensor, parts: Sequence[torch.Tensor], axis: int
) -> str | None:
    """Why one output is not the same for each sample in any batch; `turned` is that of the samples in reverse."""
    expected = torch.cat(tuple(parts), axis)
    limit = TOLERANCE * largest_finite(expected)
    for count, found in made.items():
        wanted = expected.narrow(axis, 0, count)
        if found.shape != wanted.shape:
            return f"has shape {tuple(found.shape)} at batch {count}."
        if not _agree(found, wanted, limit):
            return f"is another for a sample at batch {count} than for that sample alone."
    # What counts the steps of a sequence shows only in another order: a step follows from those before it.
    if not _agree(turned.flip(axis), expected.narrow(axis, 0, _SAMPLES), limit):
        return "is another for a sample that comes after others."
    return None


def _agree(found: torch.Tensor, wanted: torch.Tensor, limit: float) -> bool:
    return torch.allclose(found.double(), wanted.double(), rtol=0, atol=limit, equal_nan=True)


def _counting_axis(many: torch.Tensor, one: torch.Tensor) -> int | None:
    """The axis that has a place for each of `_SAMPLES` samples, and one place for one."""
    if many.dim() != one.dim():
        return None
    grown = [axis for axis, pair in enumerate(zip(many.shape, one.shape, strict=True)) if pair == (_SAMPLES, 1)]
    return grown[0] if len(grown) == 1 else None


def _why_not_shared(shapes: Sequence[Shape]) -> str:
    """Why the inputs cannot be read as batches at all."""
    free = {str(size) for shape in shapes for size in shape if not isinstance(size, int)}
    if not free:
        return "The inputs do not share a first dimension."
    return f"No free size ({', '.join(sorted(free))}) counts the samples of every input."


def largest_finite(tensor: torch.Tensor) -> float:
    """The largest magnitude in a tensor, infinities and NaN left out."""
    finite = tensor[tensor.isfinite()].double().abs()
    return float(finite.max()) if finite.numel() else 0.0


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
