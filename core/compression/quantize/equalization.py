"""Cross-layer equalization: channels of neighbouring layers get ranges that one scale serves; what they give stays."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, fx, nn

from core.network.export_graph import is_shared
from core.network.network import Network
from core.network.share import copy_graph

# f(s·x) = s·f(x) for s > 0, value by value.
_EACH = frozenset({"aten::relu", "aten::leaky_relu"})
# As much for each channel, behind a convolution.
_POOLS = frozenset(
    f"aten::{name}{taps}d" for name in ("max_pool", "avg_pool", "adaptive_avg_pool") for taps in (1, 2, 3)
)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ROUNDS, _ENOUGH = 30, 1e-3
# No channel is made so much larger or smaller at once; beyond, fp32 would lose the other layer.
_MOST = 1e4


@final
@dataclass(frozen=True)
class Pair:
    """Two layers (paths) of which the second alone reads what the first gives, through what is homogeneous."""

    first: str
    second: str


def equalize(network: Network, layers: Collection[str]) -> tuple[Network, tuple[str, ...]]:
    """A copy that gives the same answers, and the paths of the layers that were changed, all of them in `layers`.

    Each channel between two layers is divided by s in the first and multiplied by it in the second, so that both have
    the range √(r₁·r₂) there (Nagel 2019, arXiv 1906.04721, eq. 11), again and again along chains such as those with a
    depth-wise layer. Layers that are encoded, shared or called more than once stay.
    """
    graph = copy_graph(network.graph)
    made = replace(network, graph=graph, encodings=dict(network.encodings), metadata=dict(network.metadata))
    pairs = find_pairs(network, layers)
    changed: set[str] = set()
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in pairs:
            factor = _factor(graph, pair)
            if not torch.equal(factor, torch.ones_like(factor)):
                _move(graph, pair, factor)
                changed |= {pair.first, pair.second}
            moved = max(moved, float((factor - 1).abs().max()))
        if moved < _ENOUGH:
            break
    return made, tuple(sorted(changed))


def find_pairs(network: Network, layers: Collection[str]) -> tuple[Pair, ...]:
    """The pairs in graph order."""
    graph = network.graph
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    fit = {path for path in layers if calls[path] == 1 and _fits(network, path)}
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_module" or str(node.target) not in fit:
            continue
        followed = _follow(node, graph.get_submodule(str(node.target)).get_parameter("weight").dim() - 2)
        if followed is None or followed[0].op != "call_module" or str(followed[0].target) not in fit:
            continue
        pair = Pair(str(node.target), str(followed[0].target))
        if _agrees(graph, pair, last=followed[1]):
            found.append(pair)
    return tuple(found)


def _fits(network: Network, path: str) -> bool:
    layer = network.graph.get_submodule(path)
    if not isinstance(layer, _LAYERS):
        return False
    encoded = f"{path}.weight" in network.encodings or f"{path}.bias" in network.encodings
    shared = is_shared(network.graph, layer.weight) or (layer.bias is not None and is_shared(network.graph, layer.bias))
    return not encoded and not shared


def _follow(node: fx.Node, taps: int) -> tuple[fx.Node, bool] | None:
    """The node that alone reads the output of a layer behind what is homogeneous, and whether channels lie last there.

    `taps` are the axes of places behind the layer's channels, 0 for a linear layer, whose channels lie last anyhow.
    """
    last = taps == 0
    while True:
        users = list(node.users)
        if len(users) != 1 or len(users[0].all_input_nodes) != 1:
            return None
        node = users[0]
        name = node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""
        if name not in _EACH and (last or name not in _POOLS):
            if last or not _flattens(node, name, taps):
                return node, last
            last = True


def _flattens(node: fx.Node, name: str, taps: int) -> bool:
    """Whether what is behind the node is (samples, channels × places): flattened, or the mean over all places."""
    if name == "aten::flatten":
        return list(node.args[1:]) in ([1], [1, -1])
    axes = node.args[1] if name == "aten::mean" and len(node.args) == 2 else None
    if not isinstance(axes, list | tuple) or node.kwargs.get("keepdim"):
        return False
    return {int(str(axis)) % (taps + 2) for axis in axes} == set(range(2, taps + 2))


def _agrees(graph: fx.GraphModule, pair: Pair, *, last: bool) -> bool:
    """Whether each input of the second layer is of one channel of the first, in order; `last` as `_follow` says."""
    first, second = graph.get_submodule(pair.first), graph.get_submodule(pair.second)
    channels = first.get_parameter("weight").shape[0]
    if isinstance(second, nn.Linear):
        flat = second.in_features % channels == 0 and not isinstance(first, nn.Linear)
        return last and (flat or second.in_features == channels)
    if last or not isinstance(second, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return second.in_channels == channels and second.groups in (1, channels)


def _inputs_of(layer: nn.Module, weight: Tensor, channels: int) -> Tensor:
    """A view of the weight of the second layer with the input channels at the front: (channels, …)."""
    if isinstance(layer, nn.Linear):
        return weight.reshape(weight.shape[0], channels, -1).transpose(0, 1)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == channels:
        return weight.reshape(channels, -1)
    return weight.transpose(0, 1)


def _factor(graph: fx.GraphModule, pair: Pair) -> Tensor:
    """s of each channel, √(r₁/r₂); 1 where a range is zero or no number."""
    first = graph.get_submodule(pair.first).get_parameter("weight").detach()
    second = graph.get_submodule(pair.second)
    inputs = _inputs_of(second, second.get_parameter("weight").detach(), first.shape[0])
    ranges = [each.abs().flatten(1).amax(1).double() for each in (first, inputs)]
    factor = (ranges[0] / ranges[1]).sqrt()
    usable = (ranges[0] > 0) & (ranges[1] > 0) & torch.isfinite(factor)
    return torch.where(usable, factor, 1.0).clamp(1 / _MOST, _MOST).float()


def _move(graph: fx.GraphModule, pair: Pair, factor: Tensor) -> None:
    first, second = graph.get_submodule(pair.first), graph.get_submodule(pair.second)
    weight = first.get_parameter("weight")
    weight.data = weight.detach() / factor.reshape(-1, *[1] * (weight.dim() - 1))
    bias = first._parameters.get("bias")
    if bias is not None:
        bias.data = bias.detach() / factor
    weight = second.get_parameter("weight")
    scaled = weight.detach().clone(memory_format=torch.contiguous_format)
    # The view lies in the copy's memory.
    view = _inputs_of(second, scaled, len(factor))
    view.mul_(factor.reshape(-1, *[1] * (view.dim() - 1)))
    weight.data = scaled
