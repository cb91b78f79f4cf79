"""The description of a network: its layers with their costs, its operators, the memory that it plans for."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from core.description import LayerDescription
from core.network.flat import trace_shapes
from core.network.liveness import peak_live_bytes
from core.network.network import Network
from core.network.sampling import example_of

aten = torch.ops.aten
_KINDS: Mapping[type[nn.Module], str] = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.LayerNorm: "layer_norm",
    nn.RMSNorm: "rms_norm",
    nn.GroupNorm: "group_norm",
    nn.InstanceNorm1d: "instance_norm",
    nn.InstanceNorm2d: "instance_norm",
    nn.InstanceNorm3d: "instance_norm",
    nn.Embedding: "embedding",
}
_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)


@dataclass(frozen=True)
class Description:
    """What can be said of a network by its graph alone; costs are for one sample."""

    layers: tuple[LayerDescription, ...]
    operators: dict[str, int]
    parameters: int
    macs: int
    planned_activation_bytes: int


def describe(network: Network) -> Description:
    """Describe a network at batch 1, or at the only batch that it takes."""
    first = network.inputs[0].shape[0] if network.inputs and network.inputs[0].shape else 1
    batch = first if isinstance(first, int) else 1
    values = trace_shapes(network.graph, example_of(network.inputs, batch=batch))
    layers = _describe_layers(network, values, batch)
    plain = sum(_plain_macs(node, values) for node in network.graph.graph.nodes) // batch
    return Description(
        layers=layers,
        operators=dict(sorted(Counter(filter(None, map(_operator, network.graph.graph.nodes))).items())),
        parameters=sum(parameter.numel() for parameter in network.graph.parameters()),
        macs=sum(layer.macs for layer in layers) + plain,
        planned_activation_bytes=_planned_bytes(network.graph, values),
    )


def layer_kind(layer: nn.Module) -> str:
    """The kind of a layer as descriptions name it."""
    return _KINDS.get(type(layer), type(layer).__name__.lower())


def _describe_layers(network: Network, values: dict[fx.Node, object], batch: int) -> tuple[LayerDescription, ...]:
    rows: dict[str, LayerDescription] = {}
    owners: dict[int, str] = {}
    fixed = bool(network.inputs) and isinstance(network.inputs[0].shape[0], int)
    for node in network.graph.graph.find_nodes(op="call_module"):
        path = str(node.target)
        layer = network.graph.get_submodule(path)
        output = _first_tensor(values[node])
        macs = _layer_macs(layer, _first_tensor(values[node.all_input_nodes[0]]), output) // batch
        if path in rows:
            rows[path] = rows[path].model_copy(update={"macs": rows[path].macs + macs})
            continue
        weight = layer._parameters.get("weight")
        owner = owners.setdefault(id(weight), path) if weight is not None else path
        rows[path] = LayerDescription(
            name=path,
            kind=layer_kind(layer),
            weight_shape=() if weight is None else tuple(weight.shape),
            output_shape=(batch if fixed else "batch", *output.shape[1:]),
            parameters=sum(parameter.numel() for parameter in layer.parameters(recurse=False)),
            macs=macs,
            activation_bytes=output.numel() * output.element_size() // batch,
            groups=cast("int", getattr(layer, "groups", 1)),
            tied_to=None if owner == path else owner,
        )
    return tuple(rows.values())


def _first_tensor(value: object) -> torch.Tensor:
    """The value, or the first of several: recurrent layers give their states too."""
    return cast("torch.Tensor", value[0] if isinstance(value, tuple) else value)


def _layer_macs(layer: nn.Module, source: torch.Tensor, output: torch.Tensor) -> int:
    """Multiply-accumulates of one call: elements of the output times terms of each sum."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return output.numel() * math.prod(layer.weight.shape[1:])
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return source.numel() * math.prod(layer.weight.shape[1:])
    if isinstance(layer, nn.RNNBase):
        matrices = sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2)
        return output.numel() // output.shape[-1] * matrices
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    return 0


def _plain_macs(node: fx.Node, values: dict[fx.Node, object]) -> int:
    """Multiply-accumulates of a product that is no layer: matrix products and attention."""
    shapes = [tuple(value.shape) for arg in node.args if isinstance(value := _value(arg, values), torch.Tensor)]
    if node.target in _PRODUCTS:
        return cast("torch.Tensor", values[node]).numel() * shapes[0][-1]
    if node.target is aten.addmm.default:
        return cast("torch.Tensor", values[node]).numel() * shapes[1][-1]
    if node.target is aten.scaled_dot_product_attention.default:
        query, key, value = shapes[:3]
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if node.target in (aten.linear.default, aten.conv1d.default, aten.conv2d.default):
        return cast("torch.Tensor", values[node]).numel() * math.prod(shapes[1][1:])
    return 0


def _value(argument: object, values: dict[fx.Node, object]) -> object:
    return values.get(argument) if isinstance(argument, fx.Node) else None


def _operator(node: fx.Node) -> str | None:
    """The name under which a node is counted: the kind of its layer, or its ATen name."""
    if node.op == "call_module":
        module = node.graph.owning_module
        return None if module is None else layer_kind(module.get_submodule(str(node.target)))
    if isinstance(node.target, torch._ops.OpOverload) and node.target is not aten.sym_size.int:
        return node.target._schema.name.removeprefix("aten::")
    return None


def _planned_bytes(graph: fx.GraphModule, values: dict[fx.Node, object]) -> int:
    sizes = {
        node.name: value.numel() * value.element_size()
        for node, value in values.items()
        if node.op not in ("get_attr", "output") and isinstance(value, torch.Tensor)
    }
    steps = [
        ([source.name for source in node.all_input_nodes], [node.name])
        for node in graph.graph.nodes
        if node.op in ("call_module", "call_function")
    ]
    output = graph.graph.output_node()
    return peak_live_bytes(
        steps,
        sizes,
        inputs=[node.name for node in graph.graph.find_nodes(op="placeholder")],
        outputs=[node.name for node in output.all_input_nodes],
    )
