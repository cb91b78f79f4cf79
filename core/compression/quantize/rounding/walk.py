"""The float network beside the one whose earlier layers are rounded, both on the same samples, layer after layer."""

from collections.abc import Callable, Mapping
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, fx

from core.compression.matrices import (
    PRODUCTS,
    Product,
    as_matrix,
    as_weight,
    count_rows,
    output_rows,
    output_shape,
    take_rows,
)
from core.compression.quantize.rounding.rounder import Rounder, Rows, Task, Tick
from core.compression.quantize.rounding.snapper import Snapper, snapper_of
from core.compression.relay import (
    Given,
    Relay,
    Samples,
    Stage,
    added_to,
    live_bytes,
    merge_stages,
    split_stages,
    stages_of,
)
from core.errors import ModelpressError
from core.network.describe import describe
from core.network.encodings import Elementwise, Masked
from core.network.network import Network
from core.network.share import copy_graph

Progress = Callable[[float, str], None]
Choose = Callable[[Elementwise], Rounder[Any]]

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


@final
class Walk:
    """Rounds layers in graph order: each by what it is given once the layers before it are rounded.

    Raises `missing_data` without a batch, and `non_finite`.
    """

    def __init__(
        self, network: Network, templates: Mapping[str, Elementwise], choose: Choose, samples: Samples
    ) -> None:
        self._network, self._templates, self._choose = network, templates, choose
        self._rounded = copy_graph(network.graph)
        nodes = _products(network.graph, templates)
        for name in templates.keys() - {f"{node.target}.weight" for node in nodes}:
            self._put(name, templates[name])
        self._batches = [len(inputs[0]) for inputs in samples()] if nodes else []
        if nodes and not self._batches:
            sentence = "There are too few calibration samples for one batch, so that no layer can be rounded by them."
            raise ModelpressError("missing_data", sentence)
        self._samples = max(sum(self._batches), 1)
        self.stages: tuple[Stage, ...] = stages_of(nodes)
        keep = bool(nodes) and self._fits(samples)
        if not keep and nodes:
            affordable = MOST_MACS / max(2 * self._samples * describe(network).macs, 1)
            self.stages = merge_stages(self.stages, max(int(affordable), 1))
        sizes = {node.name: self._remembered(node) for node in nodes}
        self.stages = split_stages(self.stages, sizes, STAGE_BYTES)
        self._original = Relay(network.graph, samples, keep=keep)
        self._relay = Relay(self._rounded, samples, keep=keep)

    def round(self, stage: Stage, tick: Tick) -> dict[str, Elementwise]:
        """The encodings of the layers of a stage, by the name of the weight; `tick` is called between batches."""
        tasks = {node.name: self._task(node) for node in stage.nodes}
        rounders = {name: self._choose(task.template) for name, task in tasks.items()}
        rows = {name: rounders[name].collect(task) for name, task in tasks.items()}
        draw = np.random.default_rng(0)
        found: dict[str, Elementwise] = {}
        with torch.no_grad():
            reached = zip(self._relay.reach(stage), self._original.reach(stage), self._batches, strict=True)
            for own, original, size in reached:
                tick()
                for name, task in tasks.items():
                    most = task.rows * size // self._samples + 1
                    _feed(rows[name], task, (own[name], original[name]), (most, draw))
            for node in stage.nodes:
                task = tasks[node.name]
                values = rounders[node.name].choose(task, rows.pop(node.name), tick)
                encoding = task.template.at(as_weight(task.layer, values))
                found[f"{node.target}.weight"] = encoding
                self._put(f"{node.target}.weight", encoding)
        return found

    def _fits(self, samples: Samples) -> bool:
        """Whether there is room for the values between two stages of all batches, in both networks."""
        with torch.no_grad():
            alive = live_bytes(self._network.graph, next(iter(samples())))
        return 2 * alive * len(self._batches) <= KEPT_BYTES

    def _remembered(self, node: fx.Node) -> int:
        layer = cast("Product", self._network.graph.get_submodule(str(node.target)))
        matrix = as_matrix(layer, layer.weight.detach())
        return self._choose(self._templates[f"{node.target}.weight"]).remembered(*matrix.shape)

    def _task(self, node: fx.Node) -> Task:
        layer = cast("Product", self._network.graph.get_submodule(str(node.target)))
        name = f"{node.target}.weight"
        before, template = self._network.encodings.get(name), self._templates[name]
        mask = before.mask if isinstance(before, Masked) else None
        grid = cast("Snapper", snapper_of(layer, template, mask))
        matrix = as_matrix(layer, layer.weight.detach())
        bias = torch.zeros(matrix.shape[:2]) if layer.bias is None else layer.bias.detach().reshape(matrix.shape[:2])
        most = max(MOST_ROWS, ROWS_A_COLUMN * matrix.shape[-1])
        kept = None if mask is None else as_matrix(layer, mask)
        added = added_to(node) is not None
        return Task(layer, matrix, template, grid, kept, bias, _is_clipped(node), added, most)

    def _put(self, name: str, encoding: Elementwise) -> None:
        before = self._network.encodings.get(name)
        value = encoding.decode()
        self._rounded.get_parameter(name).data = (
            torch.where(before.mask, value, 0.0) if isinstance(before, Masked) else value
        )


def _feed(rows: Rows, task: Task, given: tuple[Given, Given], wanted: tuple[int, np.random.Generator]) -> None:
    """At most so many rows of a batch, as they are drawn, in pieces of bounded size."""
    (own, original), layer, (most, draw) = given, task.layer, wanted
    if not bool(torch.isfinite(own.input).all() & torch.isfinite(original.input).all()):
        raise ModelpressError("non_finite", "Calibration samples give NaN or infinity at the input of a layer.")
    count = count_rows(layer, own.input)
    chosen = np.arange(count) if count <= most else np.sort(draw.choice(count, most, replace=False))
    pieces = -(-len(chosen) * task.matrix.shape[0] * task.matrix.shape[2] // _CHUNK)
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


def _products(graph: fx.GraphModule, templates: Mapping[str, Elementwise]) -> list[fx.Node]:
    """The layers whose inputs can be seen: products of matrices that are called once, on a grid coarser than floats."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found = []
    for path, nodes in calls.items():
        layer, template = graph.get_submodule(path), templates.get(f"{path}.weight")
        if len(nodes) > 1 or template is None or not isinstance(layer, PRODUCTS):
            continue
        if snapper_of(layer, template, None) is not None:
            found.append(nodes[0])
    return found


def _is_clipped(node: fx.Node) -> bool:
    """Whether a ReLU alone reads the output of a layer, or its sum with something else."""
    end = node if added_to(node) is None else next(iter(node.users))
    users = list(end.users)
    return len(users) == 1 and users[0].target == torch.ops.aten.relu.default
