"""Residual blocks and transformer layers that can be left out: what is added to a stream of unchanged shape."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import final

import torch
from torch import Tensor, fx, nn

from core.network.network import Network
from core.network.surgery.analysis import trace_network

aten = torch.ops.aten
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_PRODUCTS = (aten.matmul.default, aten.linear.default, aten.mm.default, aten.einsum.default)
_ATTENTION = (aten.scaled_dot_product_attention.default, aten.softmax.int, aten._softmax.default)


@final
@dataclass(frozen=True)
class Block:
    """A part of a network that can be left out, so that what goes into it goes on unchanged.

    `layers` are its layers in order, `shape` is that of what goes in and comes out, as traced. Blocks of one `stage`
    follow each other at one shape.
    """

    name: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]
    stage: int
    entry: fx.Node
    exit: fx.Node


@final
@dataclass(frozen=True)
class _Branch:
    """What is between a node and a sum that adds to it.

    `exit` is the sum, or the norm or activation of it that is taken along.
    """

    entry: fx.Node
    total: fx.Node
    exit: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def attends(self) -> bool:
        return any(node.target in _ATTENTION for node in self.nodes)


def find_blocks(network: Network, *probes: Tensor) -> tuple[Block, ...]:
    """The blocks of a network that can be left out, in order; an attention and what follows it are one block."""
    _, values = trace_network(network, *probes)
    shapes = {node: tuple(value.shape) for node, value in values.items() if isinstance(value, Tensor)}
    branches = _innermost(_find_branches(network.graph, shapes))
    blocks: list[Block] = []
    for branch in _join_layers(branches):
        layers = tuple(dict.fromkeys(str(node.target) for node in branch.nodes if node.op == "call_module"))
        shape, stage = shapes[branch.exit], 0
        if blocks:
            stage = blocks[-1].stage + (shape != blocks[-1].shape)
        name = _name(branch, layers, {block.name for block in blocks})
        blocks.append(Block(name, layers, shape, stage, branch.entry, branch.exit))
    return tuple(blocks)


def _find_branches(graph: fx.GraphModule, shapes: Mapping[fx.Node, tuple[int, ...]]) -> Iterator[_Branch]:
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.target is not aten.add.Tensor or _is_part_of_sum(node):
            continue
        terms = list(_terms(node))
        # Something else than the sum must read a stream.
        streams = [term for term in terms if len(term.users) > 1 and shapes.get(term) == shapes.get(node)]
        above = {term: _reach(term, lambda each: each.all_input_nodes) for term in terms if streams}
        for stream in streams:
            below = [term for term in terms if stream in above[term]]
            reached = set(below).union(*(above[term] for term in below))
            inside = _reach(stream, lambda each: each.users) & reached
            nodes = sorted(inside.union(_sums(node)), key=position.__getitem__)
            branch = _closed(graph, stream, node, nodes) if below else None
            if branch is not None and shapes.get(branch.exit) == shapes.get(stream):
                yield branch


def _is_part_of_sum(node: fx.Node) -> bool:
    """Whether a sum is only read by another, which then has its terms."""
    return len(node.users) == 1 and next(iter(node.users)).target is aten.add.Tensor and not _is_scaled(node)


def _is_scaled(node: fx.Node) -> bool:
    return any(user.kwargs.get("alpha", 1) != 1 or len(user.args) > 2 for user in node.users)


def _terms(node: fx.Node) -> Iterator[fx.Node]:
    """What a sum adds up, sums within it taken apart."""
    sums = _sums(node)
    for each in sums:
        yield from (term for term in each.all_input_nodes if term not in sums)


def _sums(node: fx.Node) -> dict[fx.Node, None]:
    """A sum and those within it; no recursion, since a chain may have thousands."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        found[each] = None
        waiting += [term for term in each.all_input_nodes if term.target is aten.add.Tensor and _is_part_of_sum(term)]
    return found


def _reach(start: fx.Node, step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """All nodes that are reached from one by one step or more."""
    seen: set[fx.Node] = set()
    waiting = list(step(start))
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(step(node))
    return seen


def _closed(graph: fx.GraphModule, stream: fx.Node, total: fx.Node, nodes: Sequence[fx.Node]) -> _Branch | None:
    """The branch, where nothing in it is read outside and it multiplies with weights.

    A norm or an activation of the sum is taken along where one of its make has made the stream.
    """
    inside = set(nodes)
    if any(user not in inside for node in nodes if node is not total for user in node.users):
        return None
    if not any(_multiplies(graph, node) for node in nodes):
        return None
    only = next(iter(total.users)) if len(total.users) == 1 else None
    if only is not None and _same_make(graph, only, stream):
        return _Branch(stream, total, only, (*nodes, only))
    return _Branch(stream, total, total, tuple(nodes))


def _multiplies(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _WEIGHTED)
    return node.target in _PRODUCTS and any(source.op == "get_attr" for source in node.all_input_nodes)


def _same_make(graph: fx.GraphModule, node: fx.Node, other: fx.Node) -> bool:
    if node.op == "call_module" and other.op == "call_module":
        a, b = (graph.get_submodule(str(each.target)) for each in (node, other))
        return isinstance(a, _NORMS) and type(a) is type(b)
    is_activation = len(node.all_input_nodes) == 1 and torch.Tag.pointwise in getattr(node.target, "tags", ())
    return is_activation and node.target is other.target


def _innermost(found: Iterable[_Branch]) -> list[_Branch]:
    """Branches that hold no other."""
    branches = list(found)
    sets = [set(branch.nodes) for branch in branches]
    return [branch for branch, own in zip(branches, sets, strict=True) if not any(other < own for other in sets)]


def _join_layers(branches: Sequence[_Branch]) -> Iterator[_Branch]:
    """Attention and what follows it up to the first branch that does not attend, as one."""
    waiting: list[_Branch] = []
    for branch in branches:
        if waiting and not _follows(branch, waiting[-1]):
            yield from waiting
            waiting = []
        waiting.append(branch)
        if not branch.attends:
            yield _join(waiting)
            waiting = []
    yield from waiting


def _follows(branch: _Branch, before: _Branch) -> bool:
    """Whether a branch starts where another ends, or at the norm of its sum."""
    return before.exit is branch.entry or (branch.entry.op == "call_module" and before.exit in branch.entry.args)


def _join(branches: Sequence[_Branch]) -> _Branch:
    """Several branches, of which each follows the one before, as one.

    Where norms come after sums and no norm made the stream before the first of them, the norm of the last sum stays in
    the network, so that the stream is still normed.
    """
    first, last = branches[0], branches[-1]
    nodes = [node for branch in branches for node in branch.nodes]
    norms = [branch.entry for before, branch in pairwise(branches) if before.exit is not branch.entry]
    if not norms:
        return _Branch(first.entry, last.total, last.exit, tuple(nodes))
    if last.exit is not last.total:
        nodes.remove(last.exit)
    return _Branch(first.entry, last.total, last.total, (*nodes, *norms))


def _name(branch: _Branch, layers: Sequence[str], taken: set[str]) -> str:
    """The path that all layers of a block begin with, such as `layers.3`; else its first layer and its last."""
    if not layers:
        return branch.exit.name
    steps = zip(*(path.split(".") for path in layers), strict=False)
    shared = [each[0] for each in takewhile(lambda each: len(set(each)) == 1, steps)]
    name = ".".join(shared) or f"{layers[0]} to {layers[-1]}"
    number = 1 + sum(other.split("#")[0] == name for other in taken)
    return f"{name}#{number}" if number > 1 else name
