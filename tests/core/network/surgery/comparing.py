"""How the tests compare networks: outputs, groups set to zero, groups in another order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from core.network.network import Network
from core.network.share import copy_graph
from core.network.surgery import Channels, Group
from core.network.surgery.cutting import owners


def answers(network: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = network.graph(*inputs)
    return list(found) if isinstance(found, (tuple, list)) else [found]


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, as a part of the largest output."""
    largest = max(float(value.abs().max()) for value in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / largest


def zeroed(network: Network, group: Group, positions: Tensor) -> Network:
    """A copy in which these indices of a group are zero in every parameter; shapes stay."""
    result = replace(network, graph=copy_graph(network.graph))
    paths = owners(network.graph)
    for member in group.members:
        if not member.is_parameter:
            continue
        where = torch.isin(member.labels, positions).nonzero().flatten()
        path = paths[id(member.tensor)][0]
        current = result.graph.get_parameter(path)
        new = nn.Parameter(current.detach().index_fill(member.dim, where, 0.0))
        for tied in paths[id(member.tensor)]:
            parent, _, name = tied.rpartition(".")
            setattr(result.graph.get_submodule(parent), name, new)
    return result


def orders_of(channels: Channels) -> dict[Group, Tensor]:
    """Every group in a random order."""
    generator = torch.Generator().manual_seed(0)
    return {group: torch.randperm(group.size, generator=generator) for group in channels.groups}


def change_by_order(channels: Channels, inputs: Sequence[Tensor]) -> float:
    """How far the outputs move when every group is in another order: not at all but for rounding."""
    return distance(answers(channels.permuted(orders_of(channels)), inputs), answers(channels.network, inputs))


def gap_to_zeros(channels: Channels, group: Group, inputs: Sequence[Tensor]) -> float:
    """How far cutting every other index of a group is from setting it to zero; none but for rounding."""
    gone, kept = torch.arange(0, group.size, 2), torch.arange(1, group.size, 2)
    expected = answers(zeroed(channels.network, group, gone), inputs)
    return distance(answers(channels.resize({group: kept}), inputs), expected)


def run_onnx(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]
