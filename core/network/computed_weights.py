"""Weights that a graph computes from others, as weight normalisation does: computed once and stored."""

import re
from typing import cast

import torch
from torch import fx, nn
from torch.fx.node import Argument

from core.network.flat import find, place
from core.network.layers import RULES

_PARTS = re.compile(r"(?P<layer>.+?)\.(parametrizations\.(?P<new>\w+)\.original\d*|(?P<old>\w+)_(g|v|orig|u))")


def store_computed_weights(graph: fx.GraphModule) -> None:
    """Store what layers take as weights, and what follows from stored weights alone, as weights of their own.

    `conv.parametrizations.weight.original0` and `original1` become `conv.weight`. Needs `node.meta["value"]`.
    """
    for node in list(graph.graph.nodes):
        rule = RULES.get(node.target) if node.op == "call_function" else None
        for name in rule.weights if rule else ():
            index = [argument.name for argument in node.target._schema.arguments].index(name)
            value = node.args[index] if index < len(node.args) else None
            if isinstance(value, fx.Node) and value.op == "call_function":
                roots = _roots(value)
                if roots:
                    node.update_arg(index, _store(graph, value, roots, name))


def _roots(node: fx.Node) -> list[fx.Node]:
    """The stored weights that a value is computed from; none when it also follows from an input."""
    roots, seen, waiting = [], {node}, [node]
    while waiting:
        current = waiting.pop()
        if current.op == "placeholder":
            return []
        if current.op == "get_attr":
            roots.append(current)
        for source in current.all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return roots


def _store(graph: fx.GraphModule, value: fx.Node, roots: list[fx.Node], name: str) -> fx.Node:
    path = _free_path(graph, str(min(roots).target), name)
    with torch.no_grad():
        place(graph, path, nn.Parameter(_compute(graph, value, {}).contiguous().clone()))
    with graph.graph.inserting_before(value):
        stored = graph.graph.get_attr(path)
    stored.meta["value"] = value.meta["value"]
    value.replace_all_uses_with(stored)
    return stored


def _compute(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    if node.op == "get_attr":
        return find(graph, str(node.target)).detach()
    for source in node.all_input_nodes:
        if source not in known:
            known[source] = _compute(graph, source, known)
    args = fx.map_arg(node.args, cast("dict[fx.Node, Argument]", known).__getitem__)
    kwargs = fx.map_arg(node.kwargs, cast("dict[fx.Node, Argument]", known).__getitem__)
    return cast("torch.Tensor", node.target(*args, **kwargs))  # type: ignore[operator]  # a call has a function


def _free_path(graph: fx.GraphModule, root: str, name: str) -> str:
    """Where a weight that is computed from `root` is stored: in the layer of `root` where that has none yet."""
    found = _PARTS.fullmatch(root)
    layer = found["layer"] if found else root.rpartition(".")[0]
    taken = {path for path, _ in graph.named_parameters(remove_duplicate=False)}
    taken |= {path for path, _ in graph.named_buffers(remove_duplicate=False)}
    path, number = f"{layer}.{name}" if layer else name, 1
    while path in taken or any(other.startswith(f"{path}.") for other in taken):
        number += 1
        path = f"{layer or 'computed'}.{number}.{name}"
    return path
