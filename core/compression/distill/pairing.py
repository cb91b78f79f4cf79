"""Which inner values of a student are compared with which of its teacher: by depth and resolution, or by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from core.errors import ModelpressError
from core.network.export_graph import example_inputs
from core.network.network import Network

# Pairs that are made where a network has one resolution only, as transformers have.
MOST_OF_ONE = 4
# Axes of (tokens, channels), and of (channels, length).
_TOKENS_RANK = 2
# Of tokens, whose number need not agree.
_TOKENS = (0,)
# Layers that leave the channels at the end, and operators after which they may lie anywhere.
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)
_REARRANGING = {"view", "reshape", "_unsafe_view", "flatten", "transpose", "permute", "movedim", "t", "matmul", "bmm"}


@dataclass(frozen=True, slots=True)
class Place:
    """A value inside of a network: its node's name, its shape without the batch, and whether it is (tokens, channels).

    What is not has its channels first.
    """

    node: str
    shape: tuple[int, ...]
    tokens: bool = False

    @property
    def resolution(self) -> tuple[int, ...]:
        """Height and width of images, length of signals, (0,) for tokens, () for vectors; a pair's agree."""
        return _TOKENS if self.tokens else self.shape[1:]

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.shape[-1 if self.tokens else 0]


@dataclass(frozen=True, slots=True)
class Pairing:
    """A place of the student and the one of the teacher that it learns from."""

    student: Place
    teacher: Place


def pair_by_depth(student: Network, teacher: Network, *, flat: bool) -> tuple[Pairing, ...]:
    """Places through which everything passes, of equal resolution, at equal depth; with `flat` vectors too.

    Of each resolution the last place counts, where there are several resolutions; else four places, evenly apart.
    Raises `method_not_applicable` where the two have no resolution in common.
    """
    ours, theirs = (_by_resolution(find_cuts(network), flat=flat) for network in (student, teacher))
    common = [resolution for resolution in ours if resolution in theirs]
    if not common:
        raise ModelpressError(
            "method_not_applicable",
            f"Student and teacher have no resolution in common: {_tell(ours)} against {_tell(theirs)}. Name the layers "
            "in `pairs`, or use the loss `relational`, which compares any two.",
        )
    many = sum(resolution not in ((), _TOKENS) for resolution in common) > 1
    found = []
    for resolution in common:
        number = 1 if many or not resolution else min(MOST_OF_ONE, len(ours[resolution]), len(theirs[resolution]))
        sides = (_spread(places[resolution], number) for places in (ours, theirs))
        found += [Pairing(one, other) for one, other in zip(*sides, strict=True)]
    return tuple(found)


def pair_by_name(student: Network, teacher: Network, names: Sequence[str]) -> tuple[Pairing, ...]:
    """The outputs of the layers that `student=teacher` names; raises `method_not_applicable` for an unknown one."""
    sides = [(network, shapes_of(network)) for network in (student, teacher)]
    found = []
    for pair in names:
        places = [
            _place_of(network, shapes, layer.strip())
            for (network, shapes), layer in zip(sides, pair.split("="), strict=True)
        ]
        found.append(Pairing(*places))
    return tuple(found)


def find_cuts(network: Network) -> list[Place]:
    """The values through which everything passes that weights have made, in order, the outputs left out."""
    nodes = list(network.graph.graph.nodes)
    shapes, parameters = shapes_of(network), dict(network.graph.named_parameters(remove_duplicate=False)).keys()
    position = {node: at for at, node in enumerate(nodes)}
    last_use = {node: max((position[user] for user in node.users), default=-1) for node in nodes}
    output = next(node for node in reversed(nodes) if node.op == "output")
    # Parameters that are read by themselves are of the network's making, too.
    carrying = {node for node in nodes if node.op == "get_attr" and node.target in parameters}
    cuts = []
    for node in nodes:
        made = node.op == "call_module" or any(each in carrying for each in node.all_input_nodes)
        if not made or node.name not in shapes:
            continue
        carrying.add(node)
        waiting = sum(position[each] <= position[node] < last_use[each] and each.op != "get_attr" for each in carrying)
        if waiting == 1 and last_use[node] > position[node] and output not in node.users and shapes[node.name]:
            cuts.append(_place(network, node, shapes[node.name]))
    return cuts


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    """By node, the shape without the batch of every tensor of real numbers."""
    shapes: dict[str, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
                shapes[n.name] = tuple(value.shape[1:])
            return value

    with torch.no_grad():
        Recorder(network.graph).run(*example_inputs(network))
    return shapes


def _place_of(network: Network, shapes: dict[str, tuple[int, ...]], layer: str) -> Place:
    calls = [node for node in network.graph.graph.nodes if node.op == "call_module" and node.target == layer]
    if not calls or calls[-1].name not in shapes:
        raise ModelpressError("method_not_applicable", f"pairs names {layer}, which is no layer of the network.")
    return _place(network, calls[-1], shapes[calls[-1].name])


def _place(network: Network, node: fx.Node, shape: tuple[int, ...]) -> Place:
    return Place(node.name, shape, tokens=len(shape) == _TOKENS_RANK and not _is_convolved(network, node))


def _is_convolved(network: Network, node: fx.Node) -> bool:
    """Whether the axes of a value are still as a convolution has left them."""
    while node.op in ("call_module", "call_function", "call_method") and node.all_input_nodes:
        if node.op == "call_module":
            layer = network.graph.get_submodule(str(node.target))
            if isinstance(layer, nn.modules.conv._ConvNd):
                return True
            if isinstance(layer, _CHANNELS_LAST):
                return False
        elif str(getattr(node.target, "__name__", node.target)).partition(".")[0] in _REARRANGING:
            return False
        node = node.all_input_nodes[0]
    return False


def _by_resolution(places: list[Place], *, flat: bool) -> dict[tuple[int, ...], list[Place]]:
    found: dict[tuple[int, ...], list[Place]] = {}
    for place in places:
        if place.resolution or flat:
            found.setdefault(place.resolution, []).append(place)
    return found


def _spread(places: list[Place], number: int) -> list[Place]:
    """`number` of the places, evenly apart, the last one among them."""
    return [places[round(len(places) * (at + 1) / number) - 1] for at in range(number)]


def _tell(places: dict[tuple[int, ...], list[Place]]) -> str:
    shapes = ["×".join(map(str, found[-1].shape)) for found in places.values()]
    return ", ".join(shapes) or "no inner value that all passes through"
