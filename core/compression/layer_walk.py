"""The original network beside the one whose earlier layers are changed, both on the same samples, layer after layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, fx

from core.compression.matrices import (
    PRODUCTS,
    Product,
    as_matrix,
    count_rows,
    output_rows,
    output_shape,
    take_rows,
)
from core.compression.relay import Given, Relay, Samples, Stage, live_bytes, merge_stages, split_stages, stages_of
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.network import Network
from core.network.share import copy_graph

Progress = Callable[[float, str], None]
Tick = Callable[[], None]

# Bytes of values between two stages that are kept; above it every stage begins at the inputs.
KEPT_BYTES = 512 * 2**20
# Multiply-adds of all stages that begin at the inputs, a minute or two of one core.
MOST_MACS = 2e12
# Bytes of what is remembered of the layers of a stage.
STAGE_BYTES = 1 << 30
# Rows that are taken of each layer, at least so many for each column: windows of one picture are much alike.
MOST_ROWS, ROWS_A_COLUMN = 32768, 16
# Numbers in the rows of a layer that are held at once.
_CHUNK = 1 << 23


class Rows(ABC):
    """What is remembered of a layer's inputs, in bounded memory."""

    @abstractmethod
    def add(self, rows: Tensor, original: Tensor, beside: tuple[Tensor, Tensor] | None) -> None:
        """Inputs x̂ and those of the original x, (groups, rows, columns), and what the outputs are added to, r̂ and r.

        `beside` is None where the outputs are added to nothing, and where that is not known yet.
        """


@final
class LayerWalk:
    """Visits layers in graph order, so that each can be changed by what it is given once those before it are.

    `nodes` are calls of products, as `products_of` finds them; `remembered` says the most bytes that the rows of one
    take. Raises `missing_data` without a batch, and `non_finite`.
    """

    def __init__(
        self, network: Network, nodes: Sequence[fx.Node], samples: Samples, remembered: Callable[[fx.Node], int]
    ) -> None:
        self._network = network
        self._changed = copy_graph(network.graph)
        self._batches = [len(inputs[0]) for inputs in samples()] if nodes else []
        if nodes and not self._batches:
            sentence = "There are too few calibration samples for one batch, so that no layer can be fitted to them."
            raise ModelpressError("missing_data", sentence)
        self._samples = max(sum(self._batches), 1)
        self.stages: tuple[Stage, ...] = stages_of(nodes)
        keep = bool(nodes) and self._fits(samples)
        if not keep and nodes:
            affordable = MOST_MACS / max(2 * self._samples * describe(network).macs, 1)
            self.stages = merge_stages(self.stages, max(int(affordable), 1))
        self.stages = split_stages(self.stages, {node.name: remembered(node) for node in nodes}, STAGE_BYTES)
        self._original = Relay(network.graph, samples, keep=keep)
        self._relay = Relay(self._changed, samples, keep=keep)

    def layer(self, node: fx.Node) -> Product:
        """The layer of the original network that a node calls."""
        return cast("Product", self._network.graph.get_submodule(str(node.target)))

    def collect(self, stage: Stage, rows: Mapping[str, Rows], tick: Tick) -> None:
        """Add what the layers of a stage are given, by the name of the node; `tick` is called between batches."""
        draw = np.random.default_rng(0)
        nodes = {node.name: node for node in stage.nodes}
        with torch.no_grad():
            reached = zip(self._relay.reach(stage), self._original.reach(stage), self._batches, strict=True)
            for own, original, size in reached:
                tick()
                for name, taken in rows.items():
                    layer = self.layer(nodes[name])
                    most = most_rows(layer) * size // self._samples + 1
                    _feed(taken, layer, (own[name], original[name]), (most, draw))

    def put(self, name: str, value: Tensor) -> None:
        """Change a parameter by its path: the layers after it are given what comes of it."""
        self._changed.get_parameter(name).data = value

    def _fits(self, samples: Samples) -> bool:
        """Whether there is room for the values between two stages of all batches, in both networks."""
        with torch.no_grad():
            alive = live_bytes(self._network.graph, next(iter(samples())))
        return 2 * alive * len(self._batches) <= KEPT_BYTES


def products_of(graph: fx.GraphModule, wanted: Callable[[str, Product], bool]) -> list[fx.Node]:
    """The layers whose inputs can be seen: products of matrices that are called once, if their path is wanted."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found = []
    for path, nodes in calls.items():
        layer = graph.get_submodule(path)
        if len(nodes) == 1 and isinstance(layer, PRODUCTS) and wanted(path, layer):
            found.append(nodes[0])
    return found


def most_rows(layer: Product) -> int:
    """How many rows of a layer's inputs are taken at most."""
    return max(MOST_ROWS, ROWS_A_COLUMN * as_matrix(layer, layer.weight).shape[-1])


def _feed(rows: Rows, layer: Product, given: tuple[Given, Given], wanted: tuple[int, np.random.Generator]) -> None:
    """At most so many rows of a batch, as they are drawn, in pieces of bounded size."""
    (own, original), (most, draw) = given, wanted
    if not bool(torch.isfinite(own.input).all() & torch.isfinite(original.input).all()):
        raise ModelpressError("non_finite", "Calibration samples give NaN or infinity at the input of a layer.")
    count = count_rows(layer, own.input)
    chosen = np.arange(count) if count <= most else np.sort(draw.choice(count, most, replace=False))
    groups, _, columns = as_matrix(layer, layer.weight).shape
    pieces = -(-len(chosen) * groups * columns // _CHUNK)
    sides = own.beside, original.beside
    # What is spread over the outputs, or over which they are spread, has no row for each of theirs.
    shape = output_shape(layer, own.input)
    alike = all(side is not None and tuple(side.shape) == shape for side in sides)
    for piece in np.array_split(chosen, max(pieces, 1)):
        few = torch.from_numpy(piece)
        beside = None
        if alike:
            beside = (
                output_rows(layer, cast("Tensor", sides[0]), few),
                output_rows(layer, cast("Tensor", sides[1]), few),
            )
        rows.add(take_rows(layer, own.input, few), take_rows(layer, original.input, few), beside)
