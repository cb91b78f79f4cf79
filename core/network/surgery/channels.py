"""The groups of channels, heads and hidden units of a network that can only be removed together.

`Channels` analyses a network once; its groups are valid for that network. Groups are independent of each other: any
width of at least one position is right in any combination. Two groups may lie in one dimension (heads and head size),
whose size is then their product, so budgets are counted by `shape` and `costs`, not by groups.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery.analysis import analyse
from core.network.surgery.cutting import cut_network, owners, permute_network
from core.network.surgery.dimensions import SINGLE, Axis, Dimension, label, leaves, select, size
from core.network.surgery.widths import CostModel, Costs


@final
@dataclass(frozen=True)
class Member:
    """One dimension of a weight that a group runs along.

    `labels[p]` is the index on the group of position p, or -1 where the group takes no part.
    """

    path: str
    tensor: Tensor
    dim: int
    labels: Tensor

    @property
    def is_parameter(self) -> bool:
        """Whether the weight is trained; a running statistic or a table is not."""
        return isinstance(self.tensor, nn.Parameter)


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Indices that can be removed one by one, each everywhere at once.

    `statistic`: a mean or a norm runs over them, so that removing one is not the same as setting it to zero.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    statistic: bool
    axis: Axis

    def score(self, measure: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum of `measure(weight)`, in the weight's shape, over all parameters: one number an index, (size,)."""
        total = torch.zeros(self.size)
        for member in self.members:
            if member.is_parameter:
                values = (
                    measure(member.tensor)
                    .detach()
                    .float()
                    .movedim(member.dim, 0)
                    .reshape(len(member.labels), -1)
                    .sum(1)
                )
                total.index_add_(0, member.labels.clamp(min=0), values * (member.labels >= 0))
        return total


@final
@dataclass(frozen=True)
class Protected:
    """Indices of which all stay, and why."""

    name: str
    size: int
    reasons: tuple[str, ...]


@final
class Channels:
    """The groups of a network. `probes` are inputs of at least two samples; left out, they are made."""

    def __init__(self, network: Network, *probes: Tensor) -> None:
        self.network = network
        self.analysis = analyse(network, *probes)
        self._paths = owners(network.graph)
        self._dimensions = {
            path: dims for key, (_, dims) in self.analysis.ledger.tensors.items() for path in self._paths[key]
        }
        found = self._find_axes()
        averaged = {axis for e in self.analysis.ledger.averaged for axis in leaves(e)}
        self.groups = tuple(
            Group(name, axis.size, self._members(places, axis), axis in averaged, axis)
            for axis, (name, places) in found.items()
            if not axis.why and any(isinstance(tensor, nn.Parameter) for tensor, _, _ in places)
        )
        self.protected = tuple(
            Protected(name, axis.size, tuple(sorted(axis.why - {SINGLE})))
            for axis, (name, _) in found.items()
            if axis.why
        )

    @property
    def unknown(self) -> Mapping[str, str]:
        """Operators and layers without a rule, each with the first node that calls it; all they touch is protected."""
        return self.analysis.unknown

    def group(self, name: str) -> Group:
        """The group of a name; raises `invalid_request` where there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise ModelpressError("invalid_request", f"There is no group {name} of channels that can be cut.", layer=name)

    def shape(self, path: str, widths: Mapping[Group, int]) -> tuple[int, ...]:
        """The shape that a parameter would have at other widths, without cutting."""
        dims = self.dimensions(path)
        axes = {group.axis: width for group, width in widths.items()}
        return tuple(size(e, axes) for e in dims)

    def costs(self, widths: Mapping[Group, int] | None = None) -> Costs:
        """What the network costs, or would cost at other widths, without cutting."""
        return self._cost_model.at({group.axis: width for group, width in (widths or {}).items()})

    @functools.cached_property
    def _cost_model(self) -> CostModel:
        return CostModel(self.analysis)

    def dimensions(self, path: str) -> list[Dimension]:
        """The dimensions of a parameter as expressions over axes."""
        if path not in self._dimensions:
            raise ModelpressError("invalid_request", f"The network has no weight {path} that it reads.", layer=path)
        return self._dimensions[path]

    def positions(self, path: str, dim: int, keep: Mapping[Group, Sequence[int] | Tensor]) -> Tensor | None:
        """The positions of a dimension of a parameter that `resize` would keep; None for all of them."""
        chosen = {group.axis: _positions(group, kept) for group, kept in keep.items()}
        e = self.dimensions(path)[dim]
        return select(e, chosen) if any(axis in chosen for axis in leaves(e)) else None

    def resize(self, keep: Mapping[Group, Sequence[int] | Tensor]) -> Network:
        """A copy that keeps only these positions of each group named, in rising order; all else stays as it is.

        Raises `invalid_request` where positions are none, twice, out of order or not in the group.
        """
        return cut_network(self.analysis, {group.axis: _positions(group, kept) for group, kept in keep.items()})

    def permuted(self, orders: Mapping[Group, Sequence[int] | Tensor]) -> Network:
        """A copy with groups in another order, which must give the same outputs: what tests check rules with."""
        return permute_network(self.analysis, {group.axis: torch.as_tensor(order) for group, order in orders.items()})

    def _find_axes(self) -> dict[Axis, tuple[str, list[tuple[Tensor, int, Dimension]]]]:
        """Every axis of a weight with its name and where it occurs, in the order of the graph."""
        found: dict[Axis, list[tuple[Tensor, int, Dimension]]] = {}
        for tensor, dims in self.analysis.ledger.tensors.values():
            for dim, e in enumerate(dims):
                for axis in dict.fromkeys(leaves(e)):
                    if axis.size > 1:
                        found.setdefault(axis, []).append((tensor, dim, e))
        return {axis: (self._name(axis, places), places) for axis, places in found.items()}

    def _name(self, axis: Axis, places: list[tuple[Tensor, int, Dimension]]) -> str:
        """Such as `conv1.weight[0]`, or `q.weight[0].1` for the second index in a dimension of several."""
        tensor, dim, e = next((place for place in places if isinstance(place[0], nn.Parameter)), places[0])
        inside = [leaf for leaf in dict.fromkeys(leaves(e)) if leaf.size > 1]
        suffix = f".{inside.index(axis)}" if len(inside) > 1 else ""
        return f"{self._paths[id(tensor)][0]}[{dim}]{suffix}"

    def _members(self, places: list[tuple[Tensor, int, Dimension]], axis: Axis) -> tuple[Member, ...]:
        return tuple(Member(self._paths[id(tensor)][0], tensor, dim, label(e, axis)) for tensor, dim, e in places)


def resize(network: Network, keep: Mapping[str, Sequence[int]]) -> Network:
    """As `Channels.resize`, with groups by name: what a plan that was written down is replayed with."""
    channels = Channels(network)
    return channels.resize({channels.group(name): kept for name, kept in keep.items()})


def _positions(group: Group, kept: Sequence[int] | Tensor) -> Tensor:
    positions = torch.as_tensor(kept, dtype=torch.int64)
    inside = positions.dim() == 1 and positions.numel() > 0 and bool((positions >= 0).all())
    rising = inside and bool((positions.diff() > 0).all())
    if not rising or int(positions[-1]) >= group.size:
        raise ModelpressError(
            "invalid_request",
            f"The positions to keep of {group.name} must be rising numbers from 0 to {group.size - 1}, at least one.",
            layer=group.name,
        )
    return positions
