"""Weights that a graph cuts into parts, as attention does with one matrix for query, key and value."""

import operator
import re
from typing import cast

import torch
from torch import fx, nn

from core.network.flat import find, place

aten = torch.ops.aten
_CUTS = (aten.chunk.default, aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.unbind.int)


def store_slices(graph: fx.GraphModule) -> None:
    """Store each part of a cut weight as a weight of its own, so that layers can be made of them.

    `att.in_proj_weight` becomes `att.in_proj_0.weight` and so on. Needs `node.meta["value"]` and keeps it right.
    """
    for node in list(graph.graph.nodes):
        if node.target not in _CUTS or any(user.target is not operator.getitem for user in node.users):
            continue
        source = cast("fx.Node", node.args[0])
        if source.op != "get_attr" or not isinstance(find(graph, str(source.target)), nn.Parameter):
            continue
        for user in list(node.users):
            _store(graph, node, user)
        graph.graph.erase_node(node)


def _store(graph: fx.GraphModule, cut: fx.Node, part: fx.Node) -> None:
    source, index = str(cast("fx.Node", cut.args[0]).target), cast("int", part.args[1])
    path = part_path(source, index)
    if not _has(graph, path):
        target = cast("torch._ops.OpOverload", cut.target)
        parts = target(find(graph, source).detach(), *cut.args[1:], **cut.kwargs)
        place(graph, path, nn.Parameter(parts[index].clone()))
    with graph.graph.inserting_before(cut):
        stored = graph.graph.get_attr(path)
    stored.meta["value"] = part.meta["value"]
    part.replace_all_uses_with(stored)
    graph.graph.erase_node(part)


def part_path(path: str, index: int) -> str:
    """Where a part of a weight is stored."""
    found = re.fullmatch(r"(.+)[._](weight|bias)", path)
    return f"{found.group(1)}_{index}.{found.group(2)}" if found else f"{path}_{index}"


def _has(graph: fx.GraphModule, path: str) -> bool:
    """Whether there is a parameter at the path."""
    return path in dict(graph.named_parameters(remove_duplicate=False))
