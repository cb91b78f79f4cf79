"""Makes the quantized network: weights and biases become integers, grids are put where the placement says."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from core.compression.candidates import encode_parameter
from core.compression.quantize.placement import Placement, place
from core.compression.quantize.ranges import USUAL, Range
from core.network.encodings import ActivationGrid, AffineInteger, DynamicGrid, Grid
from core.network.export_graph import INTEGER_LAYERS, input_ranks, is_shared
from core.network.network import Network
from core.network.share import copy_graph
from core.specs import linear

BIAS_GRID = Grid(-(2**31) + 1, 2**31 - 1, 0, torch.int32)
# A bias must fit 31 bits at the scale input × weight, with room for the sum it is added to.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Plan:
    """All that decides a quantized network.

    `layers` are quantized, `weights` has their integers by path; `rounded` are those whose input is rounded as
    `activations` says, in static mode to the `ranges` of values by node name, and if `signed` as int8 around 0 where
    zero is in the middle; `corrections` are changes of biases.
    """

    layers: frozenset[str]
    weights: Mapping[str, AffineInteger]
    rounded: frozenset[str] = frozenset()
    activations: linear.ActivationGrid = USUAL
    ranges: Mapping[str, Range] = field(default_factory=dict)
    signed: bool = False
    corrections: Mapping[str, Tensor] = field(default_factory=dict)


def can_round(layer: nn.Module, activations: linear.ActivationGrid | None) -> bool:
    """Whether the input of such a layer may be rounded: in dynamic mode there are kernels for products alone."""
    if activations is None:
        return False
    return isinstance(layer, nn.Linear if activations.mode == "dynamic" else INTEGER_LAYERS)


def placement_of(network: Network, rounded: frozenset[str]) -> Placement:
    """Where values are rounded when the inputs of these layers are, to ranges that are known beforehand."""
    return place(network.graph, rounded, input_ranks(network))


def assemble(network: Network, plan: Plan) -> Network:
    """A quantized copy; layers that the plan does not name stay bit-identical."""
    graph = copy_graph(network.graph)
    made = replace(network, graph=graph, encodings=dict(network.encodings), metadata=dict(network.metadata))
    rounded = plan.rounded & plan.layers
    if plan.activations.mode == "dynamic":
        inputs: dict[str, ActivationGrid] = {}
        _insert_dynamic(graph, [path for path in rounded if plan.weights[path].has_kernel])
    else:
        placement = placement_of(network, rounded)
        grids = {source: _grid(plan, source) for source in placement.sources}
        inputs = _integer_inputs(network, rounded, placement, grids)
        _insert_grids(graph, placement, grids)
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in plan.layers:
            _encode_layer(made, node.target, plan=plan, input_grid=inputs.get(node.target))
    graph.graph.lint()
    graph.recompile()
    return made


def _grid(plan: Plan, source: str) -> ActivationGrid:
    asked = plan.activations
    power_of_two = asked.scale == "power_of_two"
    return ActivationGrid.of_range(*plan.ranges[source], asked.bits, power_of_two=power_of_two, signed=plan.signed)


def _integer_inputs(
    network: Network, rounded: frozenset[str], placement: Placement, grids: Mapping[str, ActivationGrid]
) -> dict[str, ActivationGrid]:
    """The grid of each layer's input, by path, where onnxruntime adds the bias to the sums of integers."""
    ranks = input_ranks(network)
    found = {}
    for node in network.graph.graph.nodes:
        if node.op == "call_module" and node.target in rounded:
            grid = grids[placement.grid_of[node.all_input_nodes[0].name]]
            batched = isinstance(network.graph.get_submodule(node.target), nn.Linear) and ranks[node.name] != 2
            if grid.has_kernel and not batched:
                found[node.target] = grid
    return found


def _encode_layer(network: Network, path: str, *, plan: Plan, input_grid: ActivationGrid | None) -> None:
    """Encode weight and bias; a bias that is added after the product (`input_grid` None) stays float."""
    layer, encoding = network.graph.get_submodule(path), plan.weights[path]
    bias = _own_bias(network.graph, path)
    if bias is not None and path in plan.corrections:
        bias.data = bias.data + plan.corrections[path]
        # It is no longer on the grid it may have been on.
        network.encodings.pop(f"{path}.bias", None)
    if bias is not None and input_grid is not None and encoding.has_kernel:
        largest = bias.detach().abs() if encoding.axis == 0 else bias.detach().abs().amax()
        scale = torch.maximum(encoding.scale, largest / (input_grid.scale * _BIAS_LIMIT))
        if encoding.grid.power_of_two:
            scale = torch.where(scale > encoding.scale, torch.exp2(torch.log2(scale).ceil()), scale)
        if not torch.equal(scale, encoding.scale):
            encoding = encoding.rescaled(layer.get_parameter("weight"), scale)
        encoded = AffineInteger.of(bias, grid=BIAS_GRID, axis=encoding.axis, scale=scale * input_grid.scale)
        bias.data = encoded.decode()
        network.encodings[f"{path}.bias"] = encoded
    encode_parameter(network, f"{path}.weight", encoding)


def _own_bias(module: fx.GraphModule, path: str) -> nn.Parameter | None:
    """The bias of a layer, a copy where others have it too; None where there is none or a plain call reads it."""
    layer = module.get_submodule(path)
    bias = layer._parameters.get("bias")
    if bias is None or any(node.op == "get_attr" and node.target == f"{path}.bias" for node in module.graph.nodes):
        return None
    if is_shared(module, bias):
        bias = layer.bias = nn.Parameter(bias.detach(), bias.requires_grad)
    return bias


def _free_name(module: fx.GraphModule) -> str:
    """The name of the next grid: an earlier step may have left some."""
    return next(name for number in itertools.count() if not hasattr(module, name := f"grid_{number}"))


def _insert_dynamic(module: fx.GraphModule, layers: list[str]) -> None:
    """Round the inputs of these layers by their own range; layers with one input share what rounds it."""
    grids: dict[fx.Node, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_module" or node.target not in layers:
            continue
        source = node.all_input_nodes[0]
        if source not in grids:
            name = _free_name(module)
            module.add_submodule(name, DynamicGrid())
            with module.graph.inserting_after(source):
                grids[source] = module.graph.call_module(name, (source,))
        node.replace_input_with(source, grids[source])


def _insert_grids(module: fx.GraphModule, placement: Placement, grids: Mapping[str, ActivationGrid]) -> None:
    names: dict[str, str] = {}
    for source, grid in grids.items():
        names[source] = _free_name(module)
        module.add_submodule(names[source], grid)
    for node in list(module.graph.nodes):
        if node.name not in placement.grid_of:
            continue
        name = names[placement.grid_of[node.name]]
        seen_by = placement.only.get(node.name)
        with module.graph.inserting_after(node):
            rounded = module.graph.call_module(name, (node,))
        for user in list(node.users):
            if user is not rounded and (seen_by is None or user.name in seen_by):
                user.replace_input_with(node, rounded)
