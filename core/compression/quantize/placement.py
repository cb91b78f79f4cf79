"""Which values of a graph are rounded, so that onnxruntime runs the chosen layers and what lies between on integers."""

from dataclasses import dataclass
from typing import final

import torch
from torch import fx, nn

# Give each value on as it is, so their input and output share one grid.
_POOLS = frozenset({"aten::max_pool1d", "aten::max_pool2d"})
_MOVES = frozenset(
    f"aten::{name}"
    for name in (
        "flatten",
        "view",
        "reshape",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "unflatten",
        "contiguous",
    )
)
_PASSES = _POOLS | _MOVES
# A grid whose range ends at the bound does their work, and onnxruntime drops them.
_ABSORBED = frozenset({"aten::relu", "aten::relu6", "aten::clamp", "aten::clamp_min", "aten::hardtanh"})
_SUMS = frozenset({"aten::add"})
_JOINS = frozenset({"aten::cat", "aten::concat"})


@dataclass(frozen=True)
class Placement:
    """Names of nodes whose value is rounded → the node whose grid it has; and which consumers see the rounded value.

    `only` holds, for values that float operators compute anyway, the consumers that run on integers.
    """

    grid_of: dict[str, str]
    only: dict[str, frozenset[str]]

    @property
    def sources(self) -> tuple[str, ...]:
        """The nodes whose ranges must be known."""
        return tuple(dict.fromkeys(self.grid_of.values()))


def place(module: fx.GraphModule, layers: frozenset[str], ranks: dict[str, int]) -> Placement:
    """Where to round when `layers` (paths) run on integers; `ranks` are those of each layer's input by node name."""
    placer = _Placer(module, layers, ranks)
    placer.settle()
    return placer.placement()


def operator_name(node: fx.Node) -> str:
    """Such as `aten::relu`; empty for what is no call of an operator."""
    return node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""


def gives_on(node: fx.Node) -> bool:
    """Whether an operator moves or picks values and leaves them as they are."""
    return operator_name(node) in _PASSES


@final
class _Placer:
    def __init__(self, module: fx.GraphModule, layers: frozenset[str], ranks: dict[str, int]) -> None:
        self._module = module
        self._nodes = list(module.graph.nodes)
        self._layers = [node for node in self._nodes if node.op == "call_module" and node.target in layers]
        # What a table is asked for are whole numbers already.
        self._layers = [node for node in self._layers if not isinstance(self._layer(node), nn.Embedding)]
        # onnxruntime has no integer product of matrices that adds a bias and rounds, only one of rank 2.
        self._producers = {node for node in self._layers if not self._is_batched_product(node, ranks)}
        self._wanted: set[fx.Node] = set()

    def _layer(self, node: fx.Node) -> nn.Module:
        return self._module.get_submodule(str(node.target))

    def _is_batched_product(self, node: fx.Node, ranks: dict[str, int]) -> bool:
        return isinstance(self._layer(node), nn.Linear) and ranks[node.name] != 2

    def settle(self) -> None:
        """Add values until nothing changes."""
        for node in self._layers:
            self._wanted.update(node.all_input_nodes)
            if isinstance(self._layer(node), nn.Conv1d | nn.Conv2d):
                self._wanted.add(end_of(node))
        size = -1
        while size != len(self._wanted):
            size = len(self._wanted)
            for node in self._nodes:
                self._settle_node(node)

    def _settle_node(self, node: fx.Node) -> None:
        name = operator_name(node)
        inputs = node.all_input_nodes
        if name in _PASSES:
            if node in self._wanted:
                self._wanted.add(inputs[0])
            elif name in _POOLS and inputs[0] in self._wanted:
                self._wanted.add(node)
        elif name in _SUMS | _JOINS and len(inputs) > 1:
            end = end_of(node)
            if all(value in self._wanted for value in inputs):
                self._wanted.add(end)
            elif end in self._wanted and any(value in self._wanted for value in inputs):
                self._wanted.update(value for value in inputs if self._is_integer_end(value))

    def _is_integer_end(self, value: fx.Node) -> bool:
        return any(end_of(node) is value for node in self._producers)

    def placement(self) -> Placement:
        """The settled values in graph order."""
        grid_of: dict[str, str] = {}
        only: dict[str, frozenset[str]] = {}
        integers = {end_of(node) for node in self._producers}
        for node in self._nodes:
            if node not in self._wanted:
                continue
            if operator_name(node) in _PASSES and node.all_input_nodes[0] in self._wanted:
                grid_of[node.name] = grid_of[node.all_input_nodes[0].name]
                integers.add(node)
                continue
            grid_of[node.name] = node.name
            head = start_of(node)
            if operator_name(head) in _SUMS | _JOINS and all(value in self._wanted for value in head.all_input_nodes):
                integers.add(node)
            if node not in integers:
                only[node.name] = frozenset(user.name for user in node.users if self._runs_on_integers(user))
        return Placement(grid_of, only)

    def _runs_on_integers(self, user: fx.Node) -> bool:
        if user in self._layers:
            return True
        if operator_name(user) in _PASSES:
            return user in self._wanted
        return operator_name(user) in _SUMS | _JOINS and end_of(user) in self._wanted


def end_of(node: fx.Node) -> fx.Node:
    """The node itself, or the clipping that alone follows it and that a grid absorbs."""
    users = list(node.users)
    if len(users) == 1 and operator_name(users[0]) in _ABSORBED:
        return users[0]
    return node


def start_of(node: fx.Node) -> fx.Node:
    """The opposite of `end_of`."""
    if operator_name(node) in _ABSORBED and node.all_input_nodes:
        before = node.all_input_nodes[0]
        if end_of(before) is node:
            return before
    return node
