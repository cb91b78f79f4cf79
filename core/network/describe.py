"""The description of a network: its layers with their costs, its operators, the memory that it plans for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from core.description import BATCH, LayerDescription
from core.errors import ModelpressError
from core.network.costs import call_macs, layer_macs
from core.network.flat import trace_shapes
from core.network.liveness import Peak, find_peak
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
# What a size that is free, and is no batch, is counted at: the first of these that the network takes.
FREE_SIZES = (16, 64, 224, 512)

Values = Mapping[fx.Node, object]


@dataclass(frozen=True)
class Description:
    """What can be said of a network by its graph alone; costs are for one sample.

    `planned_node` is the layer or call at which the planned peak is reached, None where it is the inputs alone.
    `counted_at` has the number that stood for each free size while costs were counted.
    """

    layers: tuple[LayerDescription, ...]
    operators: dict[str, int]
    parameters: int
    macs: int
    planned_activation_bytes: int
    planned_node: str | None
    counted_at: dict[str, int]


def describe(network: Network) -> Description:
    """Describe a network at batch 1, or at the only batch that it takes."""
    traced = _trace(network)
    layers = _describe_layers(network, traced)
    nodes = network.graph.graph.nodes
    peak, where = _plan(network.graph, traced.values)
    return Description(
        layers=layers,
        operators=dict(sorted(Counter(filter(None, map(_operator, nodes))).items())),
        parameters=sum(parameter.numel() for parameter in network.graph.parameters()),
        macs=sum(layer.macs for layer in layers)
        + sum(call_macs(node, traced.values) for node in nodes) // traced.batch,
        planned_activation_bytes=peak.nbytes // traced.batch,
        planned_node=where,
        counted_at=traced.counted_at,
    )


def layer_kind(layer: nn.Module) -> str:
    """The kind of a layer as descriptions name it."""
    return _KINDS.get(type(layer), type(layer).__name__.lower())


@dataclass(frozen=True)
class _Traced:
    """The values of all nodes, and again at twice the batch and at twice the other free size, where these are free."""

    batch: int
    counted_at: dict[str, int]
    values: Values
    twice_batch: Values | None
    twice_free: Values | None
    free_name: str = ""
    free: int = 0

    def sizes(self, node: fx.Node) -> tuple[int | str, ...]:
        """The shape of a node's value, sizes that grow with the batch or with the free size by name."""
        return tuple(self._size(node, index, size) for index, size in enumerate(_first_tensor(self.values[node]).shape))

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """A node's value."""
        return _first_tensor(self.values[node])

    def _size(self, node: fx.Node, index: int, size: int) -> int | str:
        if self.twice_batch is not None and _first_tensor(self.twice_batch[node]).shape[index] == 2 * size:
            return _times(size, BATCH)
        grows = self.twice_free is not None and _first_tensor(self.twice_free[node]).shape[index] == 2 * size
        return _times(size // self.free, self.free_name) if grows and size % self.free == 0 else size


def _trace(network: Network) -> _Traced:
    """Run the shapes of a network; raises `unsupported_graph` where it takes none of the sizes that are tried."""
    sizes = {size for value in network.inputs for size in value.shape if isinstance(size, str)}
    fixed, names = BATCH not in sizes, sorted(sizes - {BATCH})
    first = next((value.shape[0] for value in network.inputs if value.shape), 1)
    batch = first if fixed and isinstance(first, int) else 1
    free, values = _trace_at_some_size(network, batch)
    return _Traced(
        batch=batch,
        counted_at=dict.fromkeys(names, free) | ({} if fixed else {BATCH: 1}),
        values=values,
        twice_batch=None if fixed else _trace_at(network, 2, free),
        twice_free=_trace_at(network, batch, 2 * free) if len(names) == 1 else None,
        free_name=names[0] if names else "",
        free=free,
    )


def _trace_at_some_size(network: Network, batch: int) -> tuple[int, Values]:
    *others, last = FREE_SIZES
    for free in others:
        if (values := _trace_at(network, batch, free)) is not None:
            return free, values
    return last, trace_shapes(network.graph, example_of(network.inputs, batch=batch, free=last))


def _trace_at(network: Network, batch: int, free: int) -> Values | None:
    """The values of all nodes; None where the network does not take these sizes."""
    try:
        return trace_shapes(network.graph, example_of(network.inputs, batch=batch, free=free))
    except ModelpressError:
        return None


def _times(count: int, name: str) -> str:
    return name if count == 1 else f"{count}·{name}"


def _describe_layers(network: Network, traced: _Traced) -> tuple[LayerDescription, ...]:
    rows: dict[str, LayerDescription] = {}
    owners: dict[int, str] = {}
    for node in network.graph.graph.find_nodes(op="call_module"):
        path = str(node.target)
        layer = network.graph.get_submodule(path)
        source, output = node.all_input_nodes[0], traced.tensor(node)
        macs = layer_macs(layer, traced.tensor(source), output) // traced.batch
        if path in rows:
            rows[path] = rows[path].model_copy(update={"macs": rows[path].macs + macs})
            continue
        weight = layer._parameters.get("weight")
        own = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in owners]
        owner = None if weight is None else owners.get(id(weight))
        owners.update({id(parameter): path for parameter in own})
        rows[path] = LayerDescription(
            name=path,
            kind=layer_kind(layer),
            weight_shape=() if weight is None else tuple(weight.shape),
            input_shape=traced.sizes(source),
            output_shape=traced.sizes(node),
            parameters=sum(parameter.numel() for parameter in own),
            macs=macs,
            activation_bytes=output.numel() * output.element_size() // traced.batch,
            groups=cast("int", getattr(layer, "groups", 1)),
            tied_to=owner,
        )
    return tuple(rows.values())


def _first_tensor(value: object) -> torch.Tensor:
    """The value, or the first of several: recurrent layers give their states too."""
    return cast("torch.Tensor", value[0] if isinstance(value, tuple) else value)


def _operator(node: fx.Node) -> str | None:
    """The name under which a node is counted: the kind of its layer, or its ATen name."""
    if node.op == "call_module":
        module = node.graph.owning_module
        return None if module is None else layer_kind(module.get_submodule(str(node.target)))
    if isinstance(node.target, torch._ops.OpOverload) and node.target is not aten.sym_size.int:
        return node.target._schema.name.removeprefix("aten::")
    return None


def _plan(graph: fx.GraphModule, values: Values) -> tuple[Peak, str | None]:
    """The planned peak, and the layer or call that reaches it."""
    nodes = [node for node in graph.graph.nodes if node.op in ("call_module", "call_function")]
    sizes = {
        node.name: value.numel() * value.element_size()
        for node, value in values.items()
        if node.op not in ("get_attr", "output") and isinstance(value, torch.Tensor)
    }
    peak = find_peak(
        [([source.name for source in node.all_input_nodes], [node.name]) for node in nodes],
        sizes,
        inputs=[node.name for node in graph.graph.find_nodes(op="placeholder")],
        outputs=[node.name for node in graph.graph.output_node().all_input_nodes],
    )
    if peak.step is None:
        return peak, None
    node = nodes[peak.step]
    return peak, str(node.target) if node.op == "call_module" else node.name
