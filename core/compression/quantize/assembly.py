"""Makes the quantized network: weights and biases become integers, grids are put where the placement says."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from core.compression.quantize.placement import Placement, place
from core.compression.quantize.ranges import Range
from core.compression.quantize.scales import scale_axis
from core.network.encodings import ActivationGrid, AffineInteger, Grid, symmetric_grid
from core.network.encodings.grids import scales_of
from core.network.export_graph import input_ranks
from core.network.network import Network
from core.network.share import copy_graph

BIAS_GRID = Grid(-(2**31) + 1, 2**31 - 1, 0, torch.int32)
_TABLE_ROWS = 8192
TABLE_GRID = symmetric_grid(8)
# A bias must fit 31 bits at the scale input × weight, with room for the sum it is added to.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Plan:
    """All that decides a quantized network: layers, the range of each value, the weights' grid, changes of biases."""

    layers: frozenset[str]
    ranges: dict[str, Range]
    grid: Grid
    corrections: dict[str, Tensor]


def placement_of(network: Network, layers: frozenset[str]) -> Placement:
    """Where a network is rounded when these layers run on integers."""
    return place(network.graph, layers, input_ranks(network))


def assemble(network: Network, plan: Plan) -> Network:
    """A quantized copy; layers that the plan does not name stay bit-identical."""
    placement = placement_of(network, plan.layers)
    graph = copy_graph(network.graph)
    made = Network(
        graph=graph,
        inputs=network.inputs,
        outputs=network.outputs,
        encodings=dict(network.encodings),
        dtype=network.dtype,
        batch=network.batch,
        batch_reason=network.batch_reason,
        metadata=dict(network.metadata),
    )
    grids = {source: ActivationGrid.of_range(*plan.ranges[source]) for source in placement.sources}
    ranks = input_ranks(network)
    for node in graph.graph.nodes:
        if node.op != "call_module" or node.target not in plan.layers:
            continue
        if isinstance(graph.get_submodule(node.target), nn.Embedding):
            _encode_table(made, node.target)
        else:
            source = placement.grid_of[node.all_input_nodes[0].name]
            batched = isinstance(graph.get_submodule(node.target), nn.Linear) and ranks[node.name] != 2
            _encode_layer(made, node.target, plan=plan, input_grid=None if batched else grids[source])
    _insert_grids(graph, placement, grids)
    graph.graph.lint()
    graph.recompile()
    return made


def _encode_layer(network: Network, path: str, *, plan: Plan, input_grid: ActivationGrid | None) -> None:
    """Encode weight and bias; a bias that onnxruntime adds after the product (`input_grid` None) stays float."""
    layer = network.graph.get_submodule(path)
    weight = layer.get_parameter("weight")
    axis = scale_axis(layer, plan.grid)
    scale = scales_of(weight, plan.grid, axis)
    bias = layer._parameters.get("bias")
    if bias is not None and path in plan.corrections:
        bias.data = bias.data + plan.corrections[path]
    if bias is not None and input_grid is not None:
        largest = bias.detach().abs() if axis == 0 else bias.detach().abs().amax()
        scale = torch.maximum(scale, largest / (input_grid.scale * _BIAS_LIMIT))
        encoded = AffineInteger.of(bias, grid=BIAS_GRID, axis=axis, scale=scale * input_grid.scale)
        bias.data = encoded.decode()
        network.encodings[f"{path}.bias"] = encoded
    encoding = AffineInteger.of(weight, grid=plan.grid, axis=axis, scale=scale)
    weight.data = encoding.decode()
    network.encodings[f"{path}.weight"] = encoding


def _encode_table(network: Network, path: str) -> None:
    """Encode the rows of a table, each with its own scale; nothing is multiplied by them, so all 8 bits are used."""
    weight = network.graph.get_submodule(path).get_parameter("weight")
    # Block by block: of a table of gigabytes no second copy in doubles is made.
    values, integers = torch.empty_like(weight), torch.empty_like(weight, dtype=TABLE_GRID.storage)
    scales = []
    for start in range(0, weight.shape[0], _TABLE_ROWS):
        rows = slice(start, start + _TABLE_ROWS)
        block = AffineInteger.of(weight[rows], grid=TABLE_GRID, axis=0)
        values[rows], integers[rows] = block.decode(), block.integers
        scales.append(block.scale)
    weight.data = values
    network.encodings[f"{path}.weight"] = AffineInteger(integers, torch.cat(scales), grid=TABLE_GRID, axis=0)


def _insert_grids(module: fx.GraphModule, placement: Placement, grids: dict[str, ActivationGrid]) -> None:
    names = {source: f"grid_{number}" for number, source in enumerate(grids)}
    for source, name in names.items():
        module.add_submodule(name, grids[source])
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
