"""Copies of a graph that share its numbers: weights are large, and who changes one puts another in its place."""

import copy

from torch import fx, nn


def copy_graph(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy with parameters and buffers of its own that lie in the same memory; ties stay ties.

    A weight of the copy may be replaced (`weight.data = …`), but must not be written into.
    """
    shared: dict[int, object] = {}
    for tensor in [*graph.parameters(), *graph.buffers()]:
        is_weight = isinstance(tensor, nn.Parameter)
        shared[id(tensor)] = nn.Parameter(tensor.data, tensor.requires_grad) if is_weight else tensor.detach()
    return copy.deepcopy(graph, shared)
