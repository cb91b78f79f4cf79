"""Lift: every weight-bearing call of a flat graph becomes the matching `nn` layer, named after its parameter."""

import operator
import re
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import fx, nn

from core.network.flat import ensure, find, is_path, place
from core.network.layers import RULES, Arguments, Rule, Tensors
from core.network.recurrent import RECURRENT, build_recurrent, result_path

_RECURRENT_WEIGHT = re.compile(r"(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")
_WEIGHT_NAMES = frozenset({"weight", "bias", "running_mean", "running_var"})


def lift(flat: fx.GraphModule) -> fx.GraphModule:
    """A graph of `nn` layers that computes what the flat graph computes; weights stay the same objects.

    Needs `node.meta["value"]` (see `flat.run_shapes`). A layer that is called twice is one module; a weight that two
    different layers share stays one `nn.Parameter` in both. A call with a computed weight stays a plain call.
    """
    lifter = _Lifter(flat)
    for node in flat.graph.nodes:
        lifter.visit(node)
    lifter.place_plain_weights()
    graph = fx.GraphModule(lifter.root, lifter.graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph.eval()


def layer_path(weight: str) -> str | None:
    """The layer that a weight belongs to: `conv1` of `conv1.weight`, `att.in_proj` of `att.in_proj_weight`."""
    if not is_path(weight):
        return None
    parent, _, leaf = weight.rpartition(".")
    if leaf in _WEIGHT_NAMES or _RECURRENT_WEIGHT.fullmatch(leaf):
        return parent or None
    return weight.removesuffix("_weight")


def bind(node: fx.Node) -> Arguments:
    """The arguments of a call by the names of its operator's schema, defaults filled in."""
    bound: Arguments = {}
    for index, argument in enumerate(cast("torch._ops.OpOverload", node.target)._schema.arguments):
        if index < len(node.args):
            bound[argument.name] = node.args[index]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


@dataclass
class _Lifter:
    flat: fx.GraphModule
    # A graph module, so that a layer named like one of its attributes is seen to clash.
    root: nn.Module = field(default_factory=lambda: fx.GraphModule(nn.Module(), fx.Graph()))
    graph: fx.Graph = field(default_factory=fx.Graph)
    mapped: dict[fx.Node, fx.Node] = field(default_factory=dict)
    layers: dict[str, tuple[object, ...]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        """Copy one node, as a layer where it can be one."""
        if node.op == "output":
            values = cast("tuple[fx.Node, ...]", fx.map_arg(node.args[0], self.mapped.__getitem__))
            self.graph.output(values[0] if len(values) == 1 else values)
            return
        if node.target is operator.getitem and self.take_result(node):
            return
        if node.target in RECURRENT and self.lift_recurrent(node):
            return
        rule = RULES.get(node.target) if isinstance(node.target, torch._ops.OpOverload) else None
        if rule is None or not self.lift_call(node, rule):
            self.mapped[node] = self.graph.node_copy(node, self.mapped.__getitem__)
            self.mapped[node].meta = {}

    def lift_call(self, node: fx.Node, rule: Rule) -> bool:
        """Make a call a layer; False when a weight is computed or missing."""
        arguments = bind(node)
        anchor, tensors = None, Tensors()
        for name in rule.weights:
            weight = arguments[name]
            tensors[name] = None
            if isinstance(weight, fx.Node):
                if weight.op != "get_attr":
                    return False
                tensors[name] = find(self.flat, str(weight.target))
                anchor = anchor or str(weight.target)
        layer = None if anchor is None else rule.build(node, arguments, tensors)
        if layer is None or anchor is None:
            return False
        for name, tensor in tensors.items():
            _assign(layer, name, tensor)
        source = cast("fx.Node", arguments[rule.input])
        call = self.graph.call_module(self.add(layer, anchor, tensors), (self.mapped[source],))
        value = node.meta["value"]
        # What folding asks; a plain number, since a fake tensor cannot be copied with its graph.
        call.meta["rank"] = value.dim()
        self.mapped[node] = call
        return True

    def lift_recurrent(self, node: fx.Node) -> bool:
        """Make a recurrent call a layer; False when a weight is computed."""
        arguments = bind(node)
        weights = cast("list[fx.Node]", arguments["params"])
        if any(weight.op != "get_attr" for weight in weights):
            return False
        tensors = [find(self.flat, str(weight.target)) for weight in weights]
        layer, names = build_recurrent(node, arguments, tensors)
        for name, tensor in zip(names, tensors, strict=True):
            setattr(layer, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))
        path = self.add(layer, str(weights[0].target), dict(zip(names, tensors, strict=True)))
        states = cast("fx.Node | list[fx.Node]", arguments["hx"])
        known = self.mapped.__getitem__
        entry = known(states) if isinstance(states, fx.Node) else tuple(map(known, states))
        self.mapped[node] = self.graph.call_module(path, (known(cast("fx.Node", arguments["input"])), entry))
        return True

    def take_result(self, node: fx.Node) -> bool:
        """Read one result of a recurrent layer; False when the node reads something else."""
        call, index = cast("fx.Node", node.args[0]), node.args[1]
        if self.mapped[call].op != "call_module" or not isinstance(index, int):
            return False
        value = self.mapped[call]
        for step in result_path(call, index):
            value = self.graph.call_function(operator.getitem, (value, step))
        self.mapped[node] = value
        return True

    def add(self, layer: nn.Module, anchor: str, tensors: Tensors) -> str:
        """The path of a layer: that of an equal one with the same weights, or a new one."""
        identity = (repr(layer), *(id(tensor) for tensor in tensors.values()))
        for path, known in self.layers.items():
            if known == identity:
                return path
        path = self.free_path(layer_path(anchor) or self.counted(layer))
        self.layers[path] = identity
        parent, _, leaf = path.rpartition(".")
        ensure(self.root, parent).add_module(leaf, layer)
        return path

    def counted(self, layer: nn.Module) -> str:
        """A name such as `conv2d_3` for a layer whose weight has no usable name."""
        kind = type(layer).__name__.lower()
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return f"{kind}_{self.counters[kind]}"

    def free_path(self, wanted: str) -> str:
        """`wanted`, or that with a number where it is taken or would hide an attribute of a module."""
        path, number = wanted, 1
        while not _is_free(self.root, path):
            number += 1
            path = f"{wanted}_{number}"
        return path

    def place_plain_weights(self) -> None:
        """Place the weights that plain calls use, last, so that layers get their names first."""
        for node in self.graph.nodes:
            if node.op != "get_attr":
                continue
            path = str(node.target)
            tensor = find(self.flat, path)
            parent, _, leaf = path.rpartition(".")
            owner = self.layers.get(parent) and self.root.get_submodule(parent)
            if owner is None or getattr(owner, leaf, None) is not tensor:
                node.target = self.free_path(path)
                place(self.root, node.target, tensor)


def _is_free(root: nn.Module, path: str) -> bool:
    module: nn.Module | None = root
    *parents, leaf = path.split(".")
    for step in parents:
        child = None if module is None else module._modules.get(step)
        if child is None and hasattr(module or nn.Module, step):
            return False
        module = child
    return not hasattr(module or nn.Module, leaf)


def _assign(layer: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    if name.startswith("running_"):
        layer.register_buffer(name, tensor)
    else:
        parameter = tensor if tensor is None or isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
        layer.register_parameter(name, parameter)
