"""Batch-norm folding: a convolution or linear layer followed by a batch norm becomes one layer."""

from collections import Counter
from dataclasses import replace

import torch
from torch import fx, nn

from core.network.network import Network
from core.network.share import copy_graph

_Layer = nn.Conv1d | nn.Conv2d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def fold_batch_norm(network: Network) -> Network:
    """A copy of the network with every batch norm folded that follows a layer whose output nothing else reads.

    W' = W·γ/√(σ²+ε), b' = (b − μ)·γ/√(σ²+ε) + β, for each output channel (arXiv 1712.05877, section 3.2). Layers that
    are called twice, have a tied weight or an encoding already keep their batch norm.
    """
    folded = replace(network, graph=copy_graph(network.graph), encodings=dict(network.encodings))
    graph = folded.graph
    for node in list(graph.graph.nodes):
        pair = _find_pair(folded, node)
        if pair is None:
            continue
        source, layer, norm = pair
        _absorb(layer, norm)
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return folded


def _find_pair(network: Network, node: fx.Node) -> tuple[fx.Node, _Layer, _Norm] | None:
    """The layer before a batch norm, where both may become one."""
    graph = network.graph
    source = node.args[0] if node.op == "call_module" else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    norm, layer = graph.get_submodule(str(node.target)), graph.get_submodule(str(source.target))
    if not isinstance(norm, _Norm) or not isinstance(layer, _Layer) or norm.running_mean is None:
        return None
    # The channels of a linear layer come last, those of a batch norm second.
    if isinstance(layer, nn.Linear) and source.meta.get("rank") != 2:
        return None
    calls = Counter(str(other.target) for other in graph.graph.nodes if other.op in ("call_module", "get_attr"))
    shared = sum(parameter is layer.weight for _, parameter in graph.named_parameters(remove_duplicate=False))
    encoded = f"{source.target}.weight" in network.encodings or f"{source.target}.bias" in network.encodings
    if calls[str(source.target)] != 1 or calls[str(node.target)] != 1 or shared != 1 or encoded:
        return None
    return source, layer, norm


def _absorb(layer: _Layer, norm: _Norm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    with torch.no_grad():
        gain = torch.rsqrt(variance.double() + norm.eps)
        gain = gain if norm.weight is None else gain * norm.weight.double()
        offset = -mean.double() if layer.bias is None else layer.bias.double() - mean.double()
        shift = offset * gain if norm.bias is None else offset * gain + norm.bias.double()
        weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight = nn.Parameter(weight.float())
        layer.bias = nn.Parameter(shift.float())
