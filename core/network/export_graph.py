"""From a network to a graph that torch.export takes: encoded parameters become the nodes that rebuild them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from core.description import BATCH, TensorDescription
from core.network.encodings import (
    ActivationGrid,
    AffineInteger,
    Dense,
    DynamicGrid,
    Emission,
    Encoding,
    Masked,
    Written,
    operators,
)
from core.network.encodings.activation import BYTE_BITS
from core.network.network import Network
from core.network.share import copy_graph

Flavour = Literal["onnx", "pt2"]
INTEGER_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_Convolution = nn.modules.conv._ConvNd

EXAMPLE_BATCH = 2
# For a free size of which nothing is known.
USUAL_SIZE = 16


def example_inputs(network: Network, batch: int = EXAMPLE_BATCH) -> tuple[Tensor, ...]:
    """Zeros in the shapes and dtypes of the network's inputs; other free sizes than the batch are usual ones."""

    def number(size: int | str) -> int:
        if isinstance(size, int):
            return size
        return batch if size == BATCH else network.sizes.get(size, USUAL_SIZE)

    return tuple(
        torch.zeros([number(size) for size in described.shape], dtype=_dtype(described)) for described in network.inputs
    )


def _dtype(described: TensorDescription) -> torch.dtype:
    dtype = getattr(torch, described.dtype)
    # A network computes in fp32 whatever the upload's dtype.
    return torch.float32 if dtype.is_floating_point else cast(torch.dtype, dtype)


def expand(network: Network, flavour: Flavour, written: Written | None = None) -> fx.GraphModule:
    """A copy of the network's graph in which every encoded parameter is written out in the given flavour.

    `written` gets the encodings that stand in it as one node each, for `put_stored` to write them into the ONNX graph.
    """
    written = written or Written()
    module = copy_graph(network.graph)
    module.requires_grad_(requires_grad=False)
    ranks = input_ranks(network)
    replaced: set[str] = set()
    for node in list(module.graph.nodes):
        if flavour == "onnx":
            _suit_exporter(module, node, network, ranks)
        if node.op == "call_module":
            layer = network.graph.get_submodule(node.target)
            if isinstance(layer, ActivationGrid):
                if flavour == "onnx" and layer.has_kernel:
                    _expand_activation(module, node, layer)
            elif _is_written_out(layer, node.target, network, ranks.get(node.name, 2)):
                place = _Place(module, flavour, written)
                _expand_layer(place, node, layer=layer, encodings=network.encodings, rank=ranks[node.name])
                replaced.add(node.target)
        elif node.op == "get_attr" and node.target in network.encodings:
            _expand_attribute(_Place(module, flavour, written), node, encoding=network.encodings[node.target])
    module.graph.lint()
    module.recompile()
    return module


def input_ranks(network: Network) -> dict[str, int]:
    """By node name, the rank of the first input of every call."""
    ranks: dict[str, int] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n.name] = value.dim()
            if n.all_input_nodes:
                ranks[n.name] = shapes.get(n.all_input_nodes[0].name, 0)
            return value

    shapes: dict[str, int] = {}
    with torch.no_grad():
        Recorder(network.graph).run(*example_inputs(network))
    return ranks


def _suit_exporter(module: fx.GraphModule, node: fx.Node, network: Network, ranks: dict[str, int]) -> None:
    """Say what the ONNX exporter or onnxruntime would get wrong in another way, before anything is written out."""
    graph = module.graph
    if node.target is torch.ops.aten.scaled_dot_product_attention.default and ranks.get(node.name) == 3:
        # The exporter knows attention with heads only, so one head is made.
        with graph.inserting_before(node):
            node.args = tuple(
                graph.call_function(torch.ops.aten.unsqueeze.default, (value, -3))
                if isinstance(value, fx.Node)
                else value
                for value in node.args
            )
        with graph.inserting_after(node):
            squeezed = graph.call_function(torch.ops.aten.squeeze.dim, (node, 1))
        node.replace_all_uses_with(squeezed, delete_user_cb=lambda user: user is not squeezed)
    elif node.op == "call_module" and _is_float_between_grids(node, network):
        with graph.inserting_before(node):
            source = node.all_input_nodes[0]
            node.replace_input_with(source, graph.call_function(operators.FENCE, (source,)))


def _is_float_between_grids(node: fx.Node, network: Network) -> bool:
    layer = network.graph.get_submodule(str(node.target))
    weight = network.encodings.get(f"{node.target}.weight")
    if not isinstance(layer, nn.Linear | _Convolution):
        return False
    if isinstance(layer, INTEGER_LAYERS) and weight is not None and weight.has_kernel:
        return False
    original = next(found for found in network.graph.graph.nodes if found.name == node.name)
    source = original.all_input_nodes[0]
    # onnxruntime moves a DequantizeLinear through what only moves values.
    while source.op == "call_function" and len(source.all_input_nodes) == 1:
        source = source.all_input_nodes[0]
    grid = network.graph.get_submodule(str(source.target)) if source.op == "call_module" else None
    return isinstance(grid, ActivationGrid) and grid.has_kernel


def _is_written_out(layer: nn.Module, path: str, network: Network, rank: int) -> bool:
    if any(f"{path}.{name}" in network.encodings for name, _ in layer.named_parameters(recurse=False)):
        return True
    # torch.onnx would give the transposed weight of a batched product a name of its own.
    return isinstance(layer, nn.Linear) and rank != 2 and not is_shared(network.graph, layer.weight)


def is_shared(module: fx.GraphModule, weight: Tensor) -> bool:
    """Whether more than one layer, or a plain call beside its layer, uses a weight."""
    names = {name for name, tensor in module.named_parameters(remove_duplicate=False) if tensor is weight}
    return len(names) > 1 or any(node.op == "get_attr" and node.target in names for node in module.graph.nodes)


def _expand_activation(module: fx.GraphModule, node: fx.Node, grid: ActivationGrid) -> None:
    graph = module.graph
    if grid.signed:
        module.get_submodule(str(node.target))._buffers["zero_point"] = torch.tensor(0, dtype=torch.int8)
    with graph.inserting_before(node):
        scale, zero = graph.get_attr(f"{node.target}.scale"), graph.get_attr(f"{node.target}.zero_point")
        integers = graph.call_function(operators.QUANTIZE, (node.args[0], scale, zero))
        if grid.bits < BYTE_BITS:
            # A grid may stand in more than one place.
            module.get_submodule(str(node.target))._buffers["most"] = torch.tensor(grid.top, dtype=torch.uint8)
            integers = graph.call_function(operators.CLIP, (integers, graph.get_attr(f"{node.target}.most")))
        value = graph.call_function(operators.DEQUANTIZE, (integers, scale, zero, 0))
    node.replace_all_uses_with(value)
    graph.erase_node(node)


@dataclass(frozen=True)
class _Place:
    """The graph that is written into, how, and what is written later."""

    module: fx.GraphModule
    flavour: Flavour
    written: Written

    def emission(self, path: str) -> Emission:
        return Emission(self.module, path, self.written)

    def emit(self, encoding: Encoding, emission: Emission) -> fx.Node:
        return encoding.emit_onnx(emission) if self.flavour == "onnx" else encoding.emit_pt2(emission)


def _expand_layer(place: _Place, node: fx.Node, *, layer: nn.Module, encodings: dict[str, Encoding], rank: int) -> None:
    path, module = str(node.target), place.module
    if type(module.get_submodule(path)) is not nn.Module:
        module.set_submodule(path, nn.Module())
    with module.graph.inserting_before(node):
        table = encodings.get(f"{path}.weight")
        if isinstance(layer, nn.Embedding) and isinstance(table, AffineInteger) and table.has_plain_rows:
            value = _look_up(node, table, place.emission(f"{path}.weight"))
        elif place.flavour == "onnx" and isinstance(layer, nn.Linear) and _is_dynamic(module, node, table):
            value = _multiply_dynamically(place, node, layer, encodings)
        else:
            transposed = place.flavour == "onnx" and isinstance(layer, nn.Linear) and rank != 2
            emitted: dict[str, fx.Node | None] = {"bias": None}
            for name, parameter in layer.named_parameters(recurse=False):
                encoding = encodings.get(f"{path}.{name}") or Dense(parameter)
                emission = place.emission(f"{path}.{name}")
                emission.transposed = transposed and name == "weight"
                emission.fused = _is_rounded(node.args[0])
                emitted[name] = place.emit(encoding, emission)
            value = _call(module.graph, layer, node, emitted=emitted, transposed=transposed)
    node.replace_all_uses_with(value)
    module.graph.erase_node(node)


def _is_rounded(value: object) -> bool:
    """Whether a layer gets integers, so that onnxruntime multiplies its own as they are."""
    return isinstance(value, fx.Node) and value.target is operators.DEQUANTIZE


def _is_dynamic(module: fx.GraphModule, node: fx.Node, weight: Encoding | None) -> bool:
    """Whether the runtime rounds the layer's input and multiplies the weight's integers."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or weight is None or not weight.has_kernel:
        return False
    return isinstance(module.get_submodule(str(source.target)), DynamicGrid)


def _multiply_dynamically(place: _Place, node: fx.Node, layer: nn.Linear, encodings: dict[str, Encoding]) -> fx.Node:
    path, graph = str(node.target), place.module.graph
    weight, emission = encodings[f"{path}.weight"], place.emission(f"{path}.weight")
    emission.transposed = True
    inner = weight.inner if isinstance(weight, Masked) else weight
    if not isinstance(inner, AffineInteger):
        raise TypeError(f"{weight.name} has no integers to multiply")
    integers = weight.emit_integers(emission, inner) if isinstance(weight, Masked) else inner.emit_integers(emission)
    zero = torch.tensor(inner.grid.zero_point, dtype=inner.grid.storage)
    rounded = node.all_input_nodes[0]
    arguments = (rounded.args[0], integers, emission.buffer("scale", inner.scale), emission.buffer("zero", zero))
    product = graph.call_function(operators.DYNAMIC_PRODUCT, arguments)
    bias = layer._parameters.get("bias")
    if bias is None:
        return product
    encoded = encodings.get(f"{path}.bias") or Dense(bias)
    return graph.call_function(torch.add, (product, place.emit(encoded, place.emission(f"{path}.bias"))))


def _look_up(node: fx.Node, table: AffineInteger, emission: Emission) -> fx.Node:
    """The rows that are asked for and their scales, and fp32 of them: the table itself is never turned into floats."""
    ids = node.args[0]
    rows = emission.call(F.embedding, ids, emission.buffer("", table.integers))
    scales = emission.call(F.embedding, ids, emission.buffer("scale", table.scale.reshape(-1, 1)))
    value = emission.call(torch.ops.aten.to.dtype, rows, torch.float32)
    if table.grid.zero_point:
        value = emission.call(torch.ops.aten.sub.Tensor, value, float(table.grid.zero_point))
    return emission.call(torch.ops.aten.mul.Tensor, value, scales)


def _call(
    graph: fx.Graph, layer: nn.Module, node: fx.Node, *, emitted: dict[str, fx.Node | None], transposed: bool
) -> fx.Node:
    x, weight, bias = node.args[0], emitted["weight"], emitted["bias"]
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        function: Callable[..., Tensor] = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
        return graph.call_function(
            function, (x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        )
    if isinstance(layer, nn.Conv3d):
        return graph.call_function(
            F.conv3d, (x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        )
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        flat = F.conv_transpose1d if isinstance(layer, nn.ConvTranspose1d) else F.conv_transpose2d
        function = F.conv_transpose3d if isinstance(layer, nn.ConvTranspose3d) else flat
        sizes = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return graph.call_function(function, (x, weight, bias, *sizes))
    if isinstance(layer, nn.Embedding):
        return graph.call_function(F.embedding, (x, weight))
    if isinstance(layer, nn.Linear) and not transposed:
        return graph.call_function(F.linear, (x, weight, bias))
    if isinstance(layer, nn.Linear):
        product = graph.call_function(torch.matmul, (x, weight))
        return product if bias is None else graph.call_function(torch.add, (product, bias))
    raise TypeError(f"an encoded {type(layer).__name__} cannot be written out")


def _expand_attribute(place: _Place, node: fx.Node, *, encoding: Encoding) -> None:
    path = str(node.target)
    owner, _, name = path.rpartition(".")
    with place.module.graph.inserting_before(node):
        delattr(place.module.get_submodule(owner), name)
        value = place.emit(encoding, place.emission(path))
    node.replace_all_uses_with(value)
    place.module.graph.erase_node(node)
