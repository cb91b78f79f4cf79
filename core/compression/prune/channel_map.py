"""Which of a layer's old outputs its new ones are."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from core.compression.candidates import TRANSPOSED
from core.network.surgery import Channels, Group
from core.network.surgery.cutting import owners

Outputs = dict[str, tuple[int, ...]]


def kept_outputs(channels: Channels, keep: Mapping[Group, Sequence[int] | Tensor]) -> Outputs:
    """By layer, the old numbers of the outputs that `channels.resize(keep)` leaves it, in their new order."""
    found: Outputs = {}
    paths = owners(channels.network.graph)
    for member in (member for group in keep for member in group.members):
        for path in paths[id(member.tensor)]:
            layer, _, name = path.rpartition(".")
            if layer and (name, member.dim) == _place_of_outputs(channels.network.graph.get_submodule(layer)):
                positions = channels.positions(path, member.dim, keep)
                if positions is not None:
                    found[layer] = tuple(map(int, positions))
    return found


def compose(maps: Iterable[Mapping[str, Sequence[int]]]) -> Outputs:
    """One map of several that were made one after the other."""
    found: Outputs = {}
    for each in maps:
        for layer, kept in each.items():
            before = found.get(layer)
            found[layer] = tuple(kept) if before is None else tuple(before[place] for place in kept)
    return found


def _place_of_outputs(layer: nn.Module) -> tuple[str, int] | None:
    """The weight and the dimension of it that the outputs of a layer lie along; None where none has them all."""
    if isinstance(layer, nn.RNNBase):
        # The last layer's recurrence reads what it gives.
        return f"weight_hh_l{layer.num_layers - 1}", 1
    if isinstance(getattr(layer, "bias", None), Tensor):
        return "bias", 0
    if isinstance(layer, TRANSPOSED):
        # In groups its weight has the outputs of one group.
        return ("weight", 1) if layer.groups == 1 else None
    return "weight", int(isinstance(layer, nn.Embedding))
