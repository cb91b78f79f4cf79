"""Thin students: a smaller network of the same make, initialised from the weights of the one that it is made from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from core.errors import ModelpressError
from core.network.network import Network
from core.network.surgery.blocks import find_blocks
from core.network.surgery.channels import Channels, Group
from core.network.surgery.depth import choose_blocks, drop_blocks
from core.network.surgery.dimensions import Axis, leaves, multiplied

Criterion = Callable[[Group], Tensor]

# (from this width on, widths are multiples of): what kernels like, where it costs little.
_STEPS = ((32, 8), (16, 4))
_SMALLEST = 2
# A width that is rounded by more than this share of all positions is taken only where there is no other.
_NEAR = 0.1


@final
@dataclass(frozen=True)
class Thinned:
    """A network that was cut out of another one.

    `kept` has, by path of a parameter, the positions of its first dimension that stayed; of one not named, all did.
    """

    network: Network
    kept: Mapping[str, Tensor]


def thin(network: Network, width: float = 0.5, depth: float = 1.0, *, criterion: Criterion | None = None) -> Network:
    """A copy with `width` (above 0, up to 1) of the channels, heads and hidden units of every layer; outputs stay.

    With `depth` (above 0, up to 1) of the residual blocks or transformer layers, which go first. The indices that stay
    are those with the highest scores of `criterion` (one number an index of a group; left out, `magnitude`). Widths are
    rounded, to multiples of 8 where they are large, and are at least 2. Where two groups lie in one dimension, as heads
    and head size, one of them is cut. Raises `invalid_request`, and `method_not_applicable` where nothing can be cut.
    """
    return cut_out_thin(network, width, depth, criterion or magnitude).network


def cut_out_thin(network: Network, width: float, depth: float, criterion: Criterion) -> Thinned:
    """As `thin`, and which channels it is that stayed."""
    for name, share in (("width", width), ("depth", depth)):
        if not 0 < share <= 1:
            raise ModelpressError("invalid_request", f"A {name} must be above 0 and at most 1.", pointer=f"/{name}")
    shallow = network if depth == 1 else _make_shallow(network, depth)
    return Thinned(shallow, {}) if width == 1 else _make_narrow(shallow, width, criterion)


def _make_shallow(network: Network, depth: float) -> Network:
    blocks = find_blocks(network)
    if not blocks:
        raise ModelpressError(
            "method_not_applicable",
            "This network has no residual blocks or transformer layers that can be left out.",
            hint="Leave `depth` at 1.",
        )
    dropped = choose_blocks(blocks, depth)
    if not dropped:
        raise ModelpressError(
            "method_not_applicable",
            f"{blocks[0].name} is the only block of this network that could be left out, and one has to stay.",
            hint="Leave `depth` at 1.",
        )
    return drop_blocks(network, dropped)


def _make_narrow(network: Network, width: float, criterion: Criterion) -> Thinned:
    channels = Channels(network)
    widths = choose_widths(channels, width)
    if not widths:
        raise ModelpressError("method_not_applicable", "This network has no channels that can be cut.")
    keep = {group: _best(criterion(group), kept) for group, kept in widths.items()}
    paths = {member.path for group in keep for member in group.members if member.is_parameter and member.dim == 0}
    kept = {path: positions for path in paths if (positions := channels.positions(path, 0, keep)) is not None}
    return Thinned(channels.resize(keep), kept)


def magnitude(group: Group) -> Tensor:
    """Squared weights of each index, where every weight tensor counts by its own mean square: (size,)."""
    return group.score(lambda weight: weight.square() / weight.square().mean().clamp_min(1e-30))


def choose_widths(channels: Channels, width: float) -> dict[Group, int]:
    """The width of every group that is cut, so that no dimension is cut twice, where two groups multiply in it."""
    by_axis = {group.axis: group for group in channels.groups}
    pairs = [pair for pair in _find_pairs(channels) if pair[0] in by_axis and pair[1] in by_axis]
    inner = {axis for _, axis in pairs}
    elements = _count_elements(channels)

    def rank(group: Group) -> tuple[bool, bool, int]:
        """Of two groups in one dimension that comes first which comes near the width, is outer, is in more weights."""
        is_near = abs(round_width(group.size, width) - group.size * width) <= _NEAR * group.size
        return is_near, group.axis not in inner, elements[group.axis]

    chosen: dict[Group, int] = {}
    for group in sorted(channels.groups, key=rank, reverse=True):
        kept = round_width(group.size, width)
        rivals = (other for pair in pairs if group.axis in pair for other in pair if other is not group.axis)
        if kept < group.size and not any(by_axis[axis] in chosen for axis in rivals):
            chosen[group] = kept
    return chosen


def round_width(positions: int, width: float) -> int:
    """`width` of this many positions: a multiple of 8 or 4 where it is large, at least 2 where there are so many."""
    target = positions * width
    step = next((step for least, step in _STEPS if target >= least), 1)
    rounded = math.floor(target / step + 0.5) * step
    return min(positions, max(rounded, _SMALLEST))


def outer_groups(channels: Channels) -> tuple[Group, ...]:
    """The groups, but of two that multiply in a dimension only the outer one, as heads of heads and head size.

    The inner one where the outer has so few indices that none of them may go, as of a convolution in two groups.
    """
    axes = {group.axis for group in channels.groups if group.size > _SMALLEST}
    pairs = _find_pairs(channels)
    dropped = {inside for outside, inside in pairs if outside in axes}
    inner = {group.axis for group in channels.groups} - dropped
    dropped |= {outside for outside, inside in pairs if outside not in axes and inside in inner}
    return tuple(group for group in channels.groups if group.axis not in dropped)


def _best(scores: Tensor, kept: int) -> Tensor:
    """The positions of the highest scores in rising order; of equal ones the first."""
    return scores.sort(descending=True, stable=True).indices[:kept].sort().values


def _find_pairs(channels: Channels) -> set[tuple[Axis, Axis]]:
    """Axes that multiply in a dimension of a weight, the outer one first."""
    weights = channels.analysis.ledger.tensors.values()
    return {pair for _, dims in weights for e in dims for pair in multiplied(e)}


def _count_elements(channels: Channels) -> dict[Axis, int]:
    """By axis, how many elements of weights have it in one of their dimensions."""
    counts: dict[Axis, int] = {}
    for tensor, dims in channels.analysis.ledger.tensors.values():
        for e in dims:
            for axis in set(leaves(e)):
                counts[axis] = counts.get(axis, 0) + tensor.numel() * isinstance(tensor, nn.Parameter)
    return counts
