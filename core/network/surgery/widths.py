"""What a network would cost at other widths, by the sizes of its dimensions, without cutting it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor, fx, nn

from core.description import BATCH
from core.network.costs import call_macs
from core.network.flat import find, trace_shapes
from core.network.surgery.analysis import Analysis
from core.network.surgery.call import Value
from core.network.surgery.dimensions import Axis, Dims, resolve, settled_size

Widths: TypeAlias = Mapping[Axis, int]


@final
@dataclass(frozen=True)
class Costs:
    """Parameters, multiply-accumulates of one sample, and bytes of the parameters as they are stored."""

    parameters: int
    macs: int
    bytes: int


@final
@dataclass(frozen=True)
class _Weight:
    """A parameter: its dimensions, or how many elements it has where no node reads it; bytes of one element."""

    dims: Dims | None
    elements: int
    element_bytes: float


@final
class CostModel:
    """Sums of products of dimensions, made once: each set of widths then takes milliseconds."""

    def __init__(self, analysis: Analysis) -> None:
        self._weights = list(_weights(analysis))
        # By how many times more of it there is than for one sample.
        self._products: list[tuple[int, list[Dims]]] = []
        self._calls: list[tuple[int, fx.Node, dict[fx.Node, Value]]] = []
        repeats = _Repeats(analysis)
        for node in analysis.network.graph.graph.nodes:
            if node.op == "call_module":
                products = [_settled(dims) for dims in _layer_products(analysis, node)]
                if products:
                    self._products.append((repeats.of(node), products))
            elif isinstance(node.target, torch._ops.OpOverload):
                values = {each: analysis.ledger.values[each] for each in (*node.all_input_nodes, node)}
                if call_macs(node, _shaped(values, {})):
                    self._calls.append((repeats.of(node), node, values))

    def at(self, widths: Widths) -> Costs:
        """The costs at these widths; every element of an encoded weight is taken to have as many bits as before."""
        parameters, stored = 0, 0.0
        for weight in self._weights:
            elements = weight.elements if weight.dims is None else _product(weight.dims, widths)
            parameters += elements
            stored += elements * weight.element_bytes
        macs = sum(sum(_product(dims, widths) for dims in terms) // times for times, terms in self._products)
        macs += sum(call_macs(node, _shaped(values, widths)) // times for times, node, values in self._calls)
        return Costs(parameters, macs, round(stored))


@final
class _Repeats:
    """How many times more elements nodes have than for one sample; what does not grow with the batch has one times."""

    def __init__(self, analysis: Analysis) -> None:
        inputs = list(zip(analysis.network.inputs, analysis.example, strict=True))
        axes = [described.shape.index(BATCH) if BATCH in described.shape else None for described, _ in inputs]
        self._values = analysis.ledger.values
        self._one: Mapping[fx.Node, object] | None = None
        self._batch = analysis.example[0].shape[0] if analysis.example and analysis.example[0].dim() else 1
        if any(axis is not None for axis in axes):
            single = [
                example if axis is None else example.narrow(axis, 0, 1)
                for (_, example), axis in zip(inputs, axes, strict=True)
            ]
            self._one = trace_shapes(analysis.network.graph, single)

    def of(self, node: fx.Node) -> int:
        """Of one node; of a network without a free batch its only batch."""
        if self._one is None:
            return self._batch
        value = self._one[node]
        one = value[0] if isinstance(value, (tuple, list)) else value
        elements = one.numel() if isinstance(one, Tensor) else 1
        return _product(_settled(_first(self._values[node])), {}) // max(elements, 1)


def _weights(analysis: Analysis) -> Iterator[_Weight]:
    graph, ledger = analysis.network.graph, analysis.ledger
    encoded = {id(find(graph, path)): encoding for path, encoding in analysis.network.encodings.items()}
    for parameter in graph.parameters():
        known, encoding = ledger.tensors.get(id(parameter)), encoded.get(id(parameter))
        elements = parameter.numel()
        if encoding is None:
            each: float = parameter.element_size()
        else:
            each = sum(encoding.bytes().model_dump().values()) / max(elements, 1)
        yield _Weight(None if known is None else _settled(known[1]), elements, each)


def _settled(dims: Dims) -> Dims:
    return [resolve(e) for e in dims]


def _product(dims: Dims, widths: Widths) -> int:
    return math.prod(settled_size(e, widths) for e in dims)


def _first(value: Value) -> Dims:
    """The dimensions of a value, or of the first of several."""
    while isinstance(value, tuple):
        value = value[0]
    return value or []


def _layer_products(analysis: Analysis, node: fx.Node) -> Iterator[Dims]:
    """As `costs.layer_macs`: dimensions whose products add up to the multiply-accumulates of a layer."""
    ledger = analysis.ledger
    layer = analysis.network.graph.get_submodule(str(node.target))
    source, output = _first(ledger.value_of(node.args[0])), _first(ledger.values[node])
    match layer:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            yield output + ledger.dims_of(layer.weight)[1:]
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            yield source + ledger.dims_of(layer.weight)[1:]
        case nn.RNNBase():
            for weight in layer.parameters():
                if weight.dim() > 1:
                    yield source[:-1] + ledger.dims_of(weight)
        case nn.Linear():
            yield [*output, source[-1]]
        case _:
            return


def _shaped(values: Mapping[fx.Node, Value], widths: Widths) -> Mapping[fx.Node, object]:
    """Tensors that have a shape only."""
    return {node: _meta(value, widths) for node, value in values.items()}


def _meta(value: Value, widths: Widths) -> object:
    if isinstance(value, list):
        return torch.empty([settled_size(resolve(e), widths) for e in value], device="meta")
    return None if value is None else tuple(_meta(each, widths) for each in value)
