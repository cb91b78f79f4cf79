"""Sizes that contain the batch: found by following shapes at another batch, and rewritten."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import fx, nn
from torch.fx.node import Argument, Target

from core.network.batch_axes import Axes
from core.network.flat import run_shapes
from core.network.sampling import resized

aten = torch.ops.aten
# A view does not say which of its dimensions the batch went into; wrong guesses fail soon after, and others are tried.
MAX_TRIES = 60
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_FILLS = (aten.full.default, aten.zeros.default, aten.ones.default)
_REPEATS = (aten.expand.default, aten.repeat.default)
_JOINS = (aten.cat.default, aten.concat.default)
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


def free_sizes(
    graph: fx.GraphModule, example: Sequence[torch.Tensor], axes: Axes, accept: Callable[[fx.GraphModule], bool]
) -> fx.GraphModule | None:
    """A graph of the same layers whose sizes follow the batch of its inputs, or None where no reading is accepted.

    The batch is along the axes of the inputs.
    """
    run_shapes(graph, example)
    choices: list[int] = []
    for _ in range(MAX_TRIES):
        candidate = fx.GraphModule(graph, copy.deepcopy(graph.graph))
        rewriter = _Rewriter(candidate, example, axes, choices)
        if rewriter.rewrite() and accept(candidate):
            for node in candidate.graph.nodes:
                node.meta.pop("value", None)
            return candidate.eval()
        choices = _next_choices(rewriter.made)
        if not choices:
            break
    return None


def _next_choices(made: Sequence[tuple[int, int]]) -> list[int]:
    """The choices to try after those made, the last one changed first; empty when all were tried."""
    left = list(made)
    while left and left[-1][0] == left[-1][1] - 1:
        left.pop()
    return [choice + (index == len(left) - 1) for index, (choice, _) in enumerate(left)]


class _Rewriter(fx.Interpreter):
    """Runs the graph at `probe` samples and compares shapes with those at `size` samples, in `node.meta["value"]`."""

    def __init__(self, graph: fx.GraphModule, example: Sequence[torch.Tensor], axes: Axes, choices: list[int]) -> None:
        placeholders = graph.graph.find_nodes(op="placeholder")
        counted, axis = next((index, axis) for index, axis in enumerate(axes) if axis is not None)
        with graph.graph.inserting_after(placeholders[-1]):
            self.batch = graph.graph.call_function(aten.sym_size.int, (placeholders[counted], axis))
        super().__init__(graph, garbage_collect_values=False)
        self.size = example[counted].shape[axis]
        self.probe = 2 * self.size + 1
        self.inputs = resized(example, axes, self.probe)
        self.choices = choices
        self.varying = _reached(placeholders)
        # The choice made at each view that could be read in several ways, and how many there were.
        self.made: list[tuple[int, int]] = []
        # Where the batch shares a dimension: how many elements of that dimension lie inside one step of the batch.
        self.inner: dict[fx.Node, int] = {}

    def rewrite(self) -> bool:
        """Rewrite the graph; False where its sizes do not fit together."""
        try:
            with torch.no_grad():
                self.run(*self.inputs)
        except _ERRORS:
            return False
        graph = cast("fx.GraphModule", self.module)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return True

    def run_node(self, n: fx.Node) -> object:
        if n.op == "get_attr":
            self.adapt_constant(n)
        elif n.target in _VIEWS:
            self.adapt_view(n)
        elif n.target in _REPEATS:
            self.adapt_repeat(n)
        elif n.target in _FILLS:
            self.adapt_fill(n)
        elif n.target in _JOINS:
            self.adapt_join(n)
        elif n.target is aten.index.Tensor:
            self.adapt_index(n)
        if n.target not in _VIEWS:
            self.inherit(n)
        return super().run_node(n)

    def inherit(self, node: fx.Node) -> None:
        """Most calls leave the batch in a dimension as their input has it."""
        for source in node.all_input_nodes:
            if source in self.inner:
                self.inner[node] = self.inner[source]

    def shapes(self, node: fx.Node) -> tuple[list[int], list[int]]:
        """The shape of a node's value at `size` and at `probe` samples."""
        return list(node.meta["value"].shape), list(cast("torch.Tensor", self.env[node]).shape)

    def adapt_constant(self, node: fx.Node) -> None:
        """Keep one row of a constant that repeats it for each of `size` samples; one row broadcasts."""
        parent, _, leaf = str(node.target).rpartition(".")
        owner = self.module.get_submodule(parent)
        constant = getattr(owner, leaf)
        holds_layers = type(owner) is nn.Module or owner is self.module
        if not holds_layers or constant.dim() < 2 or self.size == 1:
            return
        if constant.shape[0] == self.size and bool((constant == constant[:1]).all()):
            row = constant.detach()[:1].clone()
            setattr(owner, leaf, nn.Parameter(row) if isinstance(constant, nn.Parameter) else row)

    def adapt_view(self, node: fx.Node) -> None:
        """Give the dimension that holds the batch the size -1."""
        source, sizes = cast("fx.Node", node.args[0]), cast("list[Argument]", node.args[1])
        before, now = self.shapes(source)
        if before == now or any(isinstance(entry, fx.Node) for entry in sizes):
            return
        changed = [index for index, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1]]
        if len(changed) != 1 or before[changed[0]] % self.size:
            raise ValueError("the batch is in more than one dimension")
        target = list(node.meta["value"].shape)
        stride = _strides(before)[changed[0]] * self.inner.get(source, before[changed[0]] // self.size)
        kept = {pair for index, pair in enumerate(_axes(before)) if index != changed[0]}
        position = self.choose(_positions(target, stride, self.size, kept))
        self.inner[node] = stride // _strides(target)[position]
        target[position] = -1
        node.update_arg(1, target)

    def adapt_index(self, node: fx.Node) -> None:
        """Count through as many samples as there are, where a stored index counts through `size`."""
        source, indices = cast("fx.Node", node.args[0]), list(cast("list[fx.Node | None]", node.args[1]))
        before, now = self.shapes(source)
        for position, index in enumerate(indices):
            if index is None or index in self.varying:
                continue
            value = cast("torch.Tensor", self.env[index])
            holds_batch = before[position] == self.size and now[position] == self.probe
            axes = counting_axes(value, self.size) if holds_batch else []
            with node.graph.inserting_before(node):
                if axes:
                    axis = self.choose(axes)
                    counted = self.insert(aten.arange.default, self.batch)
                    shape = [-1 if other == axis else 1 for other in range(value.dim())]
                    shaped = self.insert(aten.reshape.default, counted, shape)
                    sizes = [-1 if other == axis else length for other, length in enumerate(value.shape)]
                    indices[position] = self.insert(aten.expand.default, shaped, sizes)
                elif self.size > 1:
                    for axis in repeating_axes(value, self.size):
                        indices[position] = self.insert(aten.slice.Tensor, indices[position], axis, 0, 1)
        node.update_arg(1, indices)

    def insert(self, target: Target, *args: Argument) -> fx.Node:
        """A new call, made where the graph inserts now, with its value at `probe` samples."""
        made = self.graph.call_function(cast("torch._ops.OpOverload", target), args)
        values = fx.map_arg(args, cast("dict[fx.Node, Argument]", self.env).__getitem__)
        self.env[made] = self.call_function(target, values, {})
        return made

    def choose(self, positions: list[int]) -> int:
        """The position that this run tries."""
        if not positions:
            raise ValueError("samples are mixed")
        if len(positions) == 1:
            return positions[0]
        choice = self.choices[len(self.made)] if len(self.made) < len(self.choices) else 0
        self.made.append((choice, len(positions)))
        return positions[choice]

    def adapt_repeat(self, node: fx.Node) -> None:
        """Repeat to the batch what was repeated to `size`."""
        source, sizes = cast("fx.Node", node.args[0]), list(cast("list[Argument]", node.args[1]))
        before, now = self.shapes(source)
        if before == now:
            sizes[:1] = [self.batch if size == self.size else size for size in sizes[:1]]
        elif node.target is aten.expand.default:
            shift = len(sizes) - len(before)
            changed = {index + shift for index, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1]}
            sizes = [-1 if index in changed else size for index, size in enumerate(sizes)]
        node.update_arg(1, sizes)

    def adapt_fill(self, node: fx.Node) -> None:
        """Make constants for as many samples as there are; states of recurrent layers have them second."""
        sizes = list(cast("list[Argument]", node.args[0]))
        axis = len(sizes) - 2 if any(self.is_recurrent(user) for user in node.users) else 0
        if len(sizes) > 1 and sizes[axis] == self.size:
            sizes[axis] = self.batch
            node.update_arg(0, sizes)

    def is_recurrent(self, node: fx.Node) -> bool:
        """Whether a node calls a recurrent layer."""
        return node.op == "call_module" and isinstance(self.module.get_submodule(str(node.target)), nn.RNNBase)

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


def counting_axes(value: torch.Tensor, size: int) -> list[int]:
    """The axes along which integers are 0, 1, … `size` - 1, and the same everywhere else."""
    return [
        axis
        for axis, length in enumerate(value.shape)
        if length == size and bool((value.movedim(axis, -1) == torch.arange(size)).all())
    ]


def repeating_axes(value: torch.Tensor, size: int) -> list[int]:
    """The axes of length `size` along which nothing changes."""
    return [
        axis
        for axis, length in enumerate(value.shape)
        if length == size and bool((value == value.narrow(axis, 0, 1)).all())
    ]


def _reached(starts: Sequence[fx.Node]) -> set[fx.Node]:
    """All nodes that follow from some of them."""
    seen, waiting = set(starts), list(starts)
    while waiting:
        for user in waiting.pop().users:
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return seen


def _positions(target: list[int], stride: int, size: int, kept: set[tuple[int, int]]) -> list[int]:
    """The dimensions of `target` that can hold a batch of `size` samples `stride` apart, the likeliest first.

    Likeliest is a dimension of its own, then one that is not among the (stride, length) `kept` from the input.
    """
    axes = _axes(target)
    fitting = [
        index
        for index, (step, length) in enumerate(axes)
        if step <= stride and stride * size <= step * length and stride % step == 0
    ]
    return sorted(fitting, key=lambda index: (axes[index] != (stride, size), axes[index] in kept, index))


def _strides(shape: list[int]) -> list[int]:
    return [math.prod(shape[index + 1 :]) for index in range(len(shape))]


def _axes(shape: list[int]) -> list[tuple[int, int]]:
    """Stride and length of each dimension, in row-major memory."""
    return list(zip(_strides(shape), shape, strict=True))
