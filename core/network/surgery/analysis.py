"""The walk over a network's graph: rules say which dimensions have the same index; what no rule knows is frozen."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast, final

from torch import Tensor, fx

from core.errors import ModelpressError
from core.network.describe import FREE_SIZES
from core.network.flat import find, trace_shapes
from core.network.network import Network
from core.network.sampling import example_of
from core.network.surgery.call import Call, Ledger, Shape, Value, fresh, operator_name
from core.network.surgery.dimensions import Dims, Misfit, freeze, size
from core.network.surgery.encoded import why_uncut
from core.network.surgery.rules import Rule, find_layer_rule, find_rule

# Unlike a usual size of anything else, and not 1, which is special to broadcasting.
PROBE_BATCH = 3
# A rule raises these where a call is of a form that it does not know.
_MISFITS = (Misfit, ValueError, IndexError, KeyError, ZeroDivisionError)


@final
@dataclass(frozen=True)
class Analysis:
    """What the walk found: dimensions of all values and weights, constants to change, and what no rule knows.

    `example` are the inputs that sizes were found with.
    """

    network: Network
    ledger: Ledger
    example: tuple[Tensor, ...]
    unknown: Mapping[str, str] = field(default_factory=dict)


def analyse(network: Network, *probes: Tensor) -> Analysis:
    """Find the dimensions of a network; `probes` are inputs of two samples or more, made where none are given.

    Nothing is computed: only shapes are traced. Raises `unsupported_graph` where the network takes no such inputs.
    """
    example, values = trace_network(network, *probes)
    uncut = {
        id(find(network.graph, path)): reason
        for path, encoding in network.encodings.items()
        if (reason := why_uncut(encoding)) is not None
    }
    walk = _Walk(network.graph, Ledger(uncut=uncut))
    for node in network.graph.graph.nodes:
        walk.visit(node, _shape_of(values.get(node)))
    return Analysis(network, walk.ledger, example, walk.unknown)


Traced: TypeAlias = tuple[tuple[Tensor, ...], Mapping[fx.Node, object]]


def trace_network(network: Network, *probes: Tensor) -> Traced:
    """Inputs (`probes`, or made where none are given) and the values of all nodes, as tensors without numbers."""
    if probes:
        return probes, trace_shapes(network.graph, probes)
    *others, last = FREE_SIZES
    for free in others:
        example = example_of(network.inputs, batch=PROBE_BATCH, free=free)
        try:
            return example, trace_shapes(network.graph, example)
        except ModelpressError:
            continue
    example = example_of(network.inputs, batch=PROBE_BATCH, free=last)
    return example, trace_shapes(network.graph, example)


def _shape_of(value: object) -> Shape:
    if isinstance(value, Tensor):
        return [int(n) for n in value.shape]
    return tuple(map(_shape_of, value)) if isinstance(value, (list, tuple)) else None


@final
@dataclass
class _Walk:
    graph: fx.GraphModule
    ledger: Ledger
    # By the name of an operator or a layer, the first node that calls it.
    unknown: dict[str, str] = field(default_factory=dict)

    def visit(self, node: fx.Node, shape: Shape) -> None:
        """Find the dimensions of what one node gives."""
        match node.op:
            case "placeholder":
                value = _fixed(shape, "an input of the network")
            case "get_attr":
                value = self.ledger.dims_of(find(self.graph, str(node.target)))
            case "output":
                self.stop(self.ledger.value_of(node.args[0]), "an output of the network")
                value = None
            case "call_module":
                value = self.visit_layer(node, shape)
            case _ if node.target is operator.getitem:
                value = self.visit_item(node)
            case _:
                value = self.visit_call(node, shape)
        self.ledger.values[node] = value

    def visit_item(self, node: fx.Node) -> Value:
        """One of several results."""
        several, index = self.ledger.value_of(node.args[0]), node.args[1]
        return several[index] if isinstance(several, tuple) and isinstance(index, int) else None

    def visit_layer(self, node: fx.Node, shape: Shape) -> Value:
        """A layer by the rule of its class; one that has no rule keeps all that it touches."""
        layer = self.graph.get_submodule(str(node.target))
        name, rule = type(layer).__name__, find_layer_rule(layer)
        value, why = self.follow(rule, Call(self.ledger, node, shape, layer), name)
        if why:
            self.stop(self.ledger.value_of(node.args), why)
            for tensor in (*layer.parameters(), *layer.buffers()):
                self.stop(self.ledger.dims_of(tensor), why)
        return value

    def visit_call(self, node: fx.Node, shape: Shape) -> Value:
        """A plain call by the rule of its operator."""
        given = self.ledger.value_of((*node.args, *node.kwargs.values()))
        rule = find_rule(node.target)
        if rule is None and not any(_tensors(given)):
            return _fixed(shape, "fixed size")
        value, why = self.follow(rule, Call(self.ledger, node, shape), operator_name(node.target))
        if why:
            self.stop(given, why)
        return value

    def follow(self, rule: Rule | None, call: Call, name: str) -> tuple[Value, str | None]:
        """What a rule says, or fixed dimensions and why."""
        why = f"no rule for {name}"
        if rule is not None:
            why = f"the blocks of {name} do not fit"
            try:
                value = rule(call)
            except _MISFITS:
                value = None
            if _fits(value, call.raw_shape):
                return value, None
        self.unknown.setdefault(name, call.node.name)
        return _fixed(call.raw_shape, why), why

    def stop(self, value: Value, why: str) -> None:
        """Keep every position of a value."""
        for dims in _tensors(value):
            for e in dims:
                freeze(e, why)


def _fits(value: Value, shape: Shape) -> bool:
    """Whether dimensions are those of a shape: a rule that took a call for another does not go unseen."""
    if isinstance(shape, list):
        return isinstance(value, list) and [size(e) for e in value] == shape
    if shape is None:
        return value is None
    several = isinstance(value, tuple) and len(value) == len(shape)
    return several and all(map(_fits, cast("tuple[Value, ...]", value), shape))


def _fixed(shape: Shape, why: str) -> Value:
    if isinstance(shape, list):
        return fresh(shape, why)
    return None if shape is None else tuple(_fixed(each, why) for each in shape)


def _tensors(value: Value) -> Iterator[Dims]:
    if isinstance(value, list):
        yield value
    for each in value if isinstance(value, tuple) else ():
        yield from _tensors(each)
