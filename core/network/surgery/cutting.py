"""Cutting a copy of a network: weights, their encodings, and the constants that follow their sizes."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from core.network.flat import find
from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery.analysis import Analysis
from core.network.surgery.call import Site
from core.network.surgery.dimensions import Axis, leaves, select, size
from core.network.surgery.encoded import cut_encoding


def cut_network(analysis: Analysis, keep: Mapping[Axis, Tensor]) -> Network:
    """A copy that keeps these positions of these axes."""
    result = permute_network(analysis, keep)
    widths = {axis: len(kept) for axis, kept in keep.items()}
    nodes = dict(zip(analysis.network.graph.graph.nodes, result.graph.graph.nodes, strict=True))
    for edit in analysis.ledger.edits:
        if any(axis in keep for e in edit.dims for axis in leaves(e)):
            edit.change(_site(result.graph, nodes[edit.node]), lambda e: size(e, widths))
    result.graph.graph.lint()
    result.graph.recompile()
    return result


def permute_network(analysis: Analysis, keep: Mapping[Axis, Tensor]) -> Network:
    """A copy in which weights have only these positions, in this order; no constant is changed."""
    network = analysis.network
    result = replace(network, graph=copy_graph(network.graph), encodings=dict(network.encodings))
    paths = owners(network.graph)
    for tensor, dims in analysis.ledger.tensors.values():
        kept = {dim: select(e, keep) for dim, e in enumerate(dims) if any(axis in keep for axis in leaves(e))}
        # What is not cut stays the same storage.
        if not kept:
            continue
        new = tensor.detach()
        for dim, positions in kept.items():
            new = new.index_select(dim, positions)
        value = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        for path in paths[id(tensor)]:
            parent, _, name = path.rpartition(".")
            setattr(result.graph.get_submodule(parent), name, value)
            if path in result.encodings:
                result.encodings[path] = cut_encoding(network.encodings[path], kept)
    return result


def _site(graph: fx.GraphModule, node: fx.Node) -> Site:
    return Site(node, graph.get_submodule(str(node.target)) if node.op == "call_module" else graph)


def owners(graph: fx.GraphModule) -> dict[int, list[str]]:
    """By tensor, every path that it has: what is tied stays tied."""
    found: dict[int, list[str]] = {}
    for module_path, module in graph.named_modules(remove_duplicate=False):
        for name in (*module._parameters, *module._buffers):
            path = f"{module_path}.{name}".lstrip(".")
            if getattr(module, name) is not None:
                found.setdefault(id(find(graph, path)), []).append(path)
    return found
