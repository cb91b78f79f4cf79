"""Leaving blocks out of a copy of a network."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import fx

from core.errors import ModelpressError
from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery.blocks import Block, find_blocks


def drop_blocks(network: Network, names: Collection[str]) -> Network:
    """A copy without these blocks and the weights that only they read; raises `invalid_request` for other names."""
    blocks = {block.name: block for block in find_blocks(network)}
    for name in names:
        if name not in blocks:
            raise ModelpressError(
                "invalid_request",
                f"The network has no block {name} that can be left out.",
                hint=f"These can: {', '.join(blocks)[:500]}." if blocks else "No block of this network can.",
                layer=name,
            )
    result = replace(network, graph=copy_graph(network.graph))
    nodes = dict(zip(network.graph.graph.nodes, result.graph.graph.nodes, strict=True))
    entries: dict[fx.Node, fx.Node] = {}
    for block in (block for block in blocks.values() if block.name in set(names)):
        # Where the block before goes too, this one starts where that did.
        entry = entries.get(block.entry, block.entry)
        entries[block.exit] = entry
        nodes[block.exit].replace_all_uses_with(nodes[entry])
    _drop_unread(result.graph)
    left = {path for path, _ in result.graph.named_parameters(remove_duplicate=False)}
    result.encodings = {path: encoding for path, encoding in network.encodings.items() if path in left}
    result.graph.recompile()
    return result


def choose_blocks(blocks: Sequence[Block], depth: float) -> tuple[str, ...]:
    """The names of the blocks to leave out, so that `depth` of all stay, spread evenly over the stages.

    At least one stays, and with a `depth` below 1 at least one of several goes, whatever rounding says. In each
    stage the first and the last stay where two do, as in DistilBERT (arXiv 1910.01108, section 3).
    """
    dropped: list[str] = []
    seen = staying = 0
    for stage in dict.fromkeys(block.stage for block in blocks):
        names = [block.name for block in blocks if block.stage == stage]
        seen += len(names)
        # What rounding took from one stage it gives to the next.
        kept = max(1, int(seen * depth + 0.5)) - staying
        staying += kept
        places = {round(index * (len(names) - 1) / max(kept - 1, 1)) for index in range(kept)}
        dropped += [name for index, name in enumerate(names) if index not in places]
    if not dropped and depth < 1 < len(blocks):
        return choose_blocks(blocks, 1 - 1 / len(blocks))
    return tuple(dropped)


def _drop_unread(graph: fx.GraphModule) -> None:
    """Delete what no node reads: nodes, the layers that they call, and weights beside layers."""
    # fx keeps attention, which could draw random numbers.
    for node in reversed(graph.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    called = {str(node.target) for node in graph.graph.find_nodes(op="call_module")}
    read = {str(node.target) for node in graph.graph.find_nodes(op="get_attr")}
    for path, module in list(graph.named_modules(remove_duplicate=False)):
        if path in called:
            continue
        for name in [*module._parameters, *module._buffers]:
            if f"{path}.{name}".lstrip(".") not in read:
                delattr(module, name)
