"""The batch: its size made free where the export baked it in, and proved by comparing samples one by one."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import Argument, Target

from core.errors import ModelpressError
from core.network.flat import run_shapes
from core.network.sampling import draw_inputs

aten = torch.ops.aten
# Samples must agree, whatever the batch they are in, to this fraction of the largest output.
TOLERANCE = 1e-4
_SAMPLES = 3
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_FILLS = (aten.full.default, aten.zeros.default, aten.ones.default)
_REPEATS = (aten.expand.default, aten.repeat.default)
_JOINS = (aten.cat.default, aten.concat.default)
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
        reference = _run_in_chunks(graph, inputs, size)
    except _ERRORS as error:
        raise ModelpressError("unsupported_graph", f"The network cannot be run: {_line(error)}") from error
    reason = _compare(graph, inputs, reference)
    if reason is None:
        return Batch(graph, "dynamic" if declared else "freed", None, None)
    freed = copy.deepcopy(graph)
    try:
        _rewrite(freed, tuple(example), size)
        reason = _compare(freed, inputs, reference)
    except _ERRORS as error:
        reason = f"The sizes in the graph could not be freed: {_line(error)}"
    if reason is None:
        return Batch(freed, "freed", None, None)
    return Batch(graph, "fixed", reason, size)


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
            limit = TOLERANCE * float(expected.double().abs().max()) if expected.numel() else 0.0
            if not torch.allclose(output.double(), expected[:count].double(), rtol=0, atol=limit, equal_nan=True):
                return f"At batch {count} a sample gives another output {index} than alone."
    return None


def _rewrite(graph: fx.GraphModule, example: tuple[torch.Tensor, ...], size: int) -> None:
    """Rewrite the sizes that contain the batch, node after node, while shapes at another batch are followed."""
    run_shapes(graph, example)
    first = graph.graph.find_nodes(op="placeholder")[0]
    last = graph.graph.find_nodes(op="placeholder")[-1]
    with graph.graph.inserting_after(last):
        batch = graph.graph.call_function(aten.sym_size.int, (first, 0))
    batch.meta["value"] = size
    probe = 2 * size + 1
    inputs = [tensor.new_zeros((probe, *tensor.shape[1:])) for tensor in example]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        _Rewriter(graph, batch, size, probe).run(*(mode.from_tensor(tensor) for tensor in inputs))
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


class _Rewriter(fx.Interpreter):
    """Runs the graph at `probe` samples and compares shapes with those at `size` samples, in `node.meta`."""

    def __init__(self, graph: fx.GraphModule, batch: fx.Node, size: int, probe: int) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.batch, self.size, self.probe = batch, size, probe

    def run_node(self, n: fx.Node) -> object:
        if n.target in _VIEWS:
            self.adapt_view(n)
        elif n.target in _REPEATS:
            self.adapt_repeat(n)
        elif n.target in _FILLS:
            self.adapt_fill(n)
        elif n.target in _JOINS:
            self.adapt_join(n)
        return super().run_node(n)

    def shapes(self, node: fx.Node) -> tuple[list[int], list[int]]:
        """The shape of a node's value at `size` and at `probe` samples."""
        return list(node.meta["value"].shape), list(cast("torch.Tensor", self.env[node]).shape)

    def adapt_view(self, node: fx.Node) -> None:
        """Give the dimension that holds the batch the size -1."""
        source, sizes = cast("fx.Node", node.args[0]), cast("list[Argument]", node.args[1])
        before, now = self.shapes(source)
        if before == now or any(isinstance(entry, fx.Node) for entry in sizes):
            return
        changed = [index for index, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1]]
        if len(changed) != 1 or before[changed[0]] % self.size:
            raise ValueError(f"node {node.name} reads a batch in more than one dimension")
        stride = math.prod(before[changed[0] :]) // self.size
        target = list(node.meta["value"].shape)
        position = _position(target, stride, self.size)
        if position is None:
            raise ValueError(f"node {node.name} mixes samples")
        target[position] = -1
        node.update_arg(1, target)

    def adapt_repeat(self, node: fx.Node) -> None:
        """Repeat to the batch what was repeated to `size`."""
        source, sizes = cast("fx.Node", node.args[0]), list(cast("list[Argument]", node.args[1]))
        before, now = self.shapes(source)
        if not sizes or sizes[0] != self.size:
            return
        if before == now:
            sizes[0] = self.batch
        elif node.target is aten.expand.default and len(before) == len(sizes) and now[0] == self.probe:
            sizes[0] = -1
        node.update_arg(1, sizes)

    def adapt_fill(self, node: fx.Node) -> None:
        """Make constants for as many samples as there are."""
        sizes = list(cast("list[Argument]", node.args[0]))
        if len(sizes) > 1 and sizes[0] == self.size:
            node.update_arg(0, [self.batch, *sizes[1:]])

    def adapt_join(self, node: fx.Node) -> None:
        """Repeat what is the same for all samples before it is joined to what is not."""
        parts = list(cast("list[fx.Node]", node.args[0]))
        axis = cast("int", node.args[1]) if len(node.args) > 1 else 0
        shapes = [list(cast("torch.Tensor", self.env[part]).shape) for part in parts]
        if axis % len(shapes[0]) == 0 or len({shape[0] for shape in shapes}) == 1:
            return
        for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            if shape[0] == 1:
                sizes: list[Argument] = [self.batch, *shape[1:]]
                with node.graph.inserting_before(node):
                    parts[index] = node.graph.call_function(aten.expand.default, (part, sizes))
                self.env[parts[index]] = self.call_function(
                    cast("Target", aten.expand.default), (self.env[part], [self.probe, *shape[1:]]), {}
                )
        node.update_arg(0, parts)


def _position(target: list[int], stride: int, size: int) -> int | None:
    """The dimension of a shape that holds an axis of `size` elements that are `stride` apart (row-major)."""
    strides = [math.prod(target[index + 1 :]) for index in range(len(target))]
    exact = [
        i for i, (step, length) in enumerate(zip(strides, target, strict=True)) if (step, length) == (stride, size)
    ]
    inside = [
        i
        for i, (step, length) in enumerate(zip(strides, target, strict=True))
        if step <= stride and stride * size <= step * length and stride % step == 0
    ]
    return next(iter(exact or inside), None)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
