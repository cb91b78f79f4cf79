"""Parts of a network between two values through which everything passes, as networks of their own."""

import copy
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import fx

from core.compression.distill.pairing import find_cuts
from core.description import TensorDescription
from core.network.encodings import ActivationGrid
from core.network.network import Network

GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Block:
    """From one node, or the inputs, to another one, or the outputs: `layers` are those with numbers in between."""

    start: str | None
    end: str | None
    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """As the log tells it."""
        return f"{self.start or 'the inputs'} to {self.end or 'the outputs'}"


def find_blocks(network: Network, original: Network) -> tuple[Block, ...]:
    """The smallest blocks that both networks have, in order: their ends have the same names and shapes in both.

    What has no numbers of its own, such as an activation, goes with the layers before it.
    """
    theirs = {cut.node: cut.shape for cut in find_cuts(original)}
    ends = {cut.node for cut in find_cuts(network) if theirs.get(cut.node) == cut.shape}
    blocks: list[Block] = []
    layers: list[str] = []
    start = reached = None
    for node in network.graph.graph.nodes:
        used = _layers_of(network, node)
        if used and layers and reached is not None:
            blocks.append(Block(start, reached, tuple(dict.fromkeys(layers))))
            start, layers = reached, []
        layers += used
        if node.name in ends and layers:
            # An end before the block's first layer would only move its beginning.
            reached = node.name
        elif used:
            reached = None
    if layers:
        blocks.append(Block(start, None, tuple(dict.fromkeys(layers))))
    return tuple(blocks)


def changed_layers(network: Network, original: Network) -> frozenset[str]:
    """Layers with a number or an encoding that the original has otherwise or not at all."""
    old, new = original.graph.state_dict(), network.graph.state_dict()
    names = {name for name, value in new.items() if name not in old or not torch.equal(old[name], value)}
    return frozenset(name.rpartition(".")[0] for name in names | network.encodings.keys())


def shared_layers(network: Network) -> frozenset[str]:
    """Layers that are used more than once, or have a parameter in common with another one."""
    used = Counter(layer for node in network.graph.graph.nodes for layer in _layers_of(network, node))
    owners: dict[int, set[str]] = {}
    for name, parameter in network.graph.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    twice = (layer for layer, times in used.items() if times > 1)
    return frozenset(twice).union(*(names for names in owners.values() if len(names) > 1))


def shared_grids(network: Network) -> frozenset[str]:
    """Grids of activations that are used more than once."""
    used = Counter(
        str(node.target)
        for node in network.graph.graph.nodes
        if node.op == "call_module" and isinstance(network.graph.get_submodule(str(node.target)), ActivationGrid)
    )
    return frozenset(grid for grid, times in used.items() if times > 1)


def _layers_of(network: Network, node: fx.Node) -> list[str]:
    """The layers whose numbers a node uses: the one that it calls, and those that own a parameter which it is given."""
    parameters = {str(each.target) for each in node.all_input_nodes if each.op == "get_attr"}
    found = {name.rpartition(".")[0] for name in parameters & dict(network.graph.named_parameters()).keys()}
    if node.op == "call_module":
        layer = network.graph.get_submodule(str(node.target))
        # A grid goes with the layers that it rounds for.
        if layer.state_dict() and not isinstance(layer, ActivationGrid):
            found.add(str(node.target))
    return sorted(found)


def cut_out(network: Network, start: str | None, end: str | None) -> Network:
    """The part of a network from the value of the node `start` to that of `end`, over the same layers.

    It takes that value first, then those of the network's inputs that it still needs; its only output is the end's
    value, or the outputs of the network.
    """
    graph = copy.deepcopy(network.graph.graph)
    nodes = {node.name: node for node in graph.nodes}
    inputs = dict(zip((node.name for node in graph.nodes if node.op == "placeholder"), network.inputs, strict=True))
    taken: list[TensorDescription] = []
    if start is not None:
        with graph.inserting_before(next(iter(graph.nodes))):
            given = graph.placeholder(GIVEN)
        nodes[start].replace_all_uses_with(given)
        taken.append(TensorDescription(name=GIVEN, dtype="float32", shape=("batch",)))
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    if end is not None:
        output.args = (nodes[end],)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    for name, described in inputs.items():
        if nodes[name].users:
            taken.append(described)
        else:
            graph.erase_node(nodes[name])
    module = fx.GraphModule(network.graph, graph)
    owned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    encodings = {path: encoding for path, encoding in network.encodings.items() if path in owned}
    return replace(network, graph=module, inputs=tuple(taken), encodings=encodings)


def put_back(network: Network, block: Network) -> None:
    """Give the layers of `network` the numbers and encodings that they have in `block`."""
    for name, parameter in block.graph.named_parameters(remove_duplicate=False):
        network.graph.get_parameter(name).data = parameter.detach().clone()
    for name, buffer in block.graph.named_buffers(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        # The network's own buffer may lie in the memory of an earlier step's.
        setattr(network.graph.get_submodule(owner), leaf, buffer.detach().clone())
    network.encodings.update(block.encodings)
