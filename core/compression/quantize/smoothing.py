"""Smoothing: what makes activations hard to round is moved into the weights behind a layer norm; answers stay."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, fx, nn

from core.errors import ModelpressError
from core.network.export_graph import is_shared
from core.network.network import Network
from core.network.share import copy_graph

Inputs = tuple[Tensor, ...]

# Factors stay within 1 / so much … so much, that fp32 loses nothing.
_MOST = 1e4
_TINY = 1e-5


@final
@dataclass(frozen=True)
class NormGroup:
    """A layer norm (path and node) and the linear layers (paths) that alone read it."""

    norm: str
    node: str
    linears: tuple[str, ...]


def smooth(
    network: Network, alpha: float, batches: Iterable[Inputs], layers: Collection[str]
) -> tuple[Network, tuple[str, ...]]:
    """A copy that gives the same answers, and the paths of the layers and norms that were changed.

    Channel j behind a norm is divided by max|x_j|^α / max|w_j|^(1 − α) and the columns of the weights are multiplied by
    it (Xiao 2022, arXiv 2211.10438, eq. 4). A norm that anything but linear layers of `layers` reads stays: in networks
    that add a norm's output up again, as BERT does, there is nothing that could take the factors. Raises `missing_data`
    without a batch.
    """
    groups = find_groups(network, layers)
    if not groups:
        return network, ()
    largest = _largest(network.graph, {group.node for group in groups}, batches)
    if not largest:
        raise ModelpressError("missing_data", "There are too few calibration samples for one batch to smooth by.")
    graph = copy_graph(network.graph)
    for group in groups:
        if group.node in largest:
            _move(graph, group, largest[group.node], alpha)
    made = replace(network, graph=graph, encodings=dict(network.encodings), metadata=dict(network.metadata))
    changed = {path for group in groups if group.node in largest for path in (group.norm, *group.linears)}
    return made, tuple(sorted(changed))


def find_groups(network: Network, layers: Collection[str]) -> tuple[NormGroup, ...]:
    """The norms whose output is read by such layers only."""
    graph = network.graph
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] > 1:
            continue
        norm = graph.get_submodule(str(node.target))
        if not isinstance(norm, nn.LayerNorm) or len(norm.normalized_shape) != 1 or not _is_free(network, node.target):
            continue
        readers = list(node.users)
        fitting = all(
            user.op == "call_module"
            and user.target in layers
            and calls[str(user.target)] == 1
            and isinstance(graph.get_submodule(str(user.target)), nn.Linear)
            and _is_free(network, user.target)
            for user in readers
        )
        if readers and fitting:
            found.append(NormGroup(str(node.target), node.name, tuple(str(user.target) for user in readers)))
    return tuple(found)


def _is_free(network: Network, target: object) -> bool:
    """Whether a layer has a weight that is neither encoded nor shared, nor is its bias."""
    layer = network.graph.get_submodule(str(target))
    if layer._parameters.get("weight") is None:
        return False
    return all(
        f"{target}.{name}" not in network.encodings and not is_shared(network.graph, parameter)
        for name, parameter in layer.named_parameters(recurse=False)
    )


def _move(graph: fx.GraphModule, group: NormGroup, largest: Tensor, alpha: float) -> None:
    weights = [graph.get_submodule(path).get_parameter("weight") for path in group.linears]
    columns = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    # A channel without a range has nothing to move.
    usable = (largest > _TINY) & (columns > _TINY) & torch.isfinite(largest)
    factor = largest.clamp_min(_TINY).pow(alpha) / columns.clamp_min(_TINY).pow(1 - alpha)
    factor = torch.where(usable, factor, 1.0).clamp(1 / _MOST, _MOST)
    for weight in weights:
        weight.data = weight.detach() * factor
    norm = graph.get_submodule(group.norm)
    for parameter in norm.parameters(recurse=False):
        parameter.data = parameter.detach() / factor


def _largest(module: fx.GraphModule, nodes: Collection[str], batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """Of each node the largest magnitude of every channel, shape (channels,)."""
    watcher = _Watcher(module, nodes)
    with torch.no_grad():
        for inputs in batches:
            watcher.run(*inputs)
    return watcher.largest


@final
class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, nodes: Collection[str]) -> None:
        super().__init__(module)
        self._nodes = nodes
        self.largest: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self._nodes and isinstance(value, Tensor):
            found = value.abs().flatten(0, -2).amax(0)
            before = self.largest.get(n.name)
            self.largest[n.name] = found if before is None else torch.maximum(before, found)
        return value
