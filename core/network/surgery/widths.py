"""What a network would cost at other widths, by the sizes of its dimensions, without cutting it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, fx, nn

from core.network.costs import call_macs
from core.network.flat import find
from core.network.surgery.analysis import Analysis
from core.network.surgery.call import Ledger, Value
from core.network.surgery.dimensions import Axis, Dims, size

Widths = Mapping[Axis, int]


@final
@dataclass(frozen=True)
class Costs:
    """Parameters, multiply-accumulates of one sample, and bytes of the parameters as they are stored."""

    parameters: int
    macs: int
    bytes: int


def count_costs(analysis: Analysis, widths: Widths) -> Costs:
    """The costs at these widths; a weight that is cut and encoded is counted with the bits of its elements before."""
    ledger, network = analysis.ledger, analysis.network
    own = {id(parameter): parameter for parameter in network.graph.parameters()}
    sizes = {key: _elements(ledger, parameter, widths) for key, parameter in own.items()}
    encoded = {id(find(network.graph, path)): encoding for path, encoding in network.encodings.items()}
    stored = 0
    for key, elements in sizes.items():
        if key in encoded:
            before = sum(encoded[key].bytes().model_dump().values())
            stored += before * elements // max(own[key].numel(), 1)
        else:
            stored += elements * own[key].element_size()
    macs = sum(
        _layer_macs(analysis, node, widths) if node.op == "call_module" else _call_macs(ledger, node, widths)
        for node in network.graph.graph.nodes
    )
    return Costs(sum(sizes.values()), macs // analysis.batch, stored)


def _elements(ledger: Ledger, tensor: Tensor, widths: Widths) -> int:
    # A parameter that no node reads has no dimensions; it is never cut.
    known = ledger.tensors.get(id(tensor))
    return tensor.numel() if known is None else _product(known[1], widths)


def _product(dims: Dims, widths: Widths) -> int:
    return math.prod(size(e, widths) for e in dims)


def _first(value: Value) -> Dims:
    """The dimensions of a value, or of the first of several."""
    while isinstance(value, tuple):
        value = value[0]
    return value or []


def _layer_macs(analysis: Analysis, node: fx.Node, widths: Widths) -> int:
    """As `costs.layer_macs`, from dimensions."""
    ledger = analysis.ledger
    layer = analysis.network.graph.get_submodule(str(node.target))
    source, output = _first(ledger.value_of(node.args[0])), _first(ledger.values[node])
    match layer:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return _product(output, widths) * _product(ledger.dims_of(layer.weight)[1:], widths)
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return _product(source, widths) * _product(ledger.dims_of(layer.weight)[1:], widths)
        case nn.RNNBase():
            matrices = (ledger.dims_of(weight) for weight in layer.parameters() if weight.dim() > 1)
            return _product(source[:-1], widths) * sum(_product(dims, widths) for dims in matrices)
        case nn.Linear():
            return _product(output, widths) * size(source[-1], widths)
        case _:
            return 0


def _call_macs(ledger: Ledger, node: fx.Node, widths: Widths) -> int:
    """As `costs.call_macs`, of tensors that have a shape only."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return 0
    values = {each: _meta(ledger.values[each], widths) for each in (*node.all_input_nodes, node)}
    return call_macs(node, cast("Mapping[fx.Node, object]", values))


def _meta(value: Value, widths: Widths) -> object:
    if isinstance(value, list):
        return torch.empty([size(e, widths) for e in value], device="meta")
    return None if value is None else tuple(_meta(each, widths) for each in value)
