"""Rounds the layers of a network in graph order: each by what it is given once the layers before it are rounded."""

from collections.abc import Callable, Mapping
from typing import Any, cast, final

import torch
from torch import fx

from core.compression.layer_walk import LayerWalk, Tick, most_rows, products_of
from core.compression.matrices import Product, as_matrix
from core.compression.quantize.rounding.rounder import Rounder, Task
from core.compression.quantize.rounding.snapper import Snapper, snapper_of
from core.compression.relay import Samples, Stage, added_to
from core.network.encodings import Elementwise, Masked
from core.network.network import Network

Choose = Callable[[Elementwise], Rounder[Any]]


@final
class Walk:
    """A `LayerWalk` whose layers get codes of their grids. Raises `missing_data` without a batch, and `non_finite`."""

    def __init__(
        self, network: Network, templates: Mapping[str, Elementwise], choose: Choose, samples: Samples
    ) -> None:
        self._network, self._templates, self._choose = network, templates, choose

        def has_grid(path: str, layer: Product) -> bool:
            template = templates.get(f"{path}.weight")
            # Not where it is as fine as floats.
            return template is not None and snapper_of(layer, template, None) is not None

        nodes = products_of(network.graph, has_grid)
        self._walk = LayerWalk(network, nodes, samples, self._remembered)
        for name in templates.keys() - {f"{node.target}.weight" for node in nodes}:
            self._put(name, templates[name])

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Layers that are rounded together, in the order in which they are."""
        return self._walk.stages

    def round(self, stage: Stage, tick: Tick) -> dict[str, Elementwise]:
        """The encodings of the layers of a stage, by the name of the weight; `tick` is called between batches."""
        tasks = {node.name: self._task(node) for node in stage.nodes}
        rounders = {name: self._choose(task.template) for name, task in tasks.items()}
        rows = {name: rounders[name].collect(task) for name, task in tasks.items()}
        self._walk.collect(stage, rows, tick)
        found: dict[str, Elementwise] = {}
        with torch.no_grad():
            for node in stage.nodes:
                task = tasks[node.name]
                encoding = rounders[node.name].choose(task, rows.pop(node.name), tick)
                found[f"{node.target}.weight"] = encoding
                self._put(f"{node.target}.weight", encoding)
        return found

    def _remembered(self, node: fx.Node) -> int:
        layer = cast("Product", self._network.graph.get_submodule(str(node.target)))
        matrix = as_matrix(layer, layer.weight.detach())
        return self._choose(self._templates[f"{node.target}.weight"]).remembered(*matrix.shape)

    def _task(self, node: fx.Node) -> Task:
        layer = self._walk.layer(node)
        name = f"{node.target}.weight"
        before, template = self._network.encodings.get(name), self._templates[name]
        mask = before.mask if isinstance(before, Masked) else None
        grid = cast("Snapper", snapper_of(layer, template, mask))
        matrix = as_matrix(layer, layer.weight.detach())
        bias = torch.zeros(matrix.shape[:2]) if layer.bias is None else layer.bias.detach().reshape(matrix.shape[:2])
        kept = None if mask is None else as_matrix(layer, mask)
        added = added_to(node) is not None
        return Task(layer, matrix, template, grid, kept, bias, _is_clipped(node), added, most_rows(layer))

    def _put(self, name: str, encoding: Elementwise) -> None:
        before, value = self._network.encodings.get(name), encoding.decode()
        self._walk.put(name, torch.where(before.mask, value, 0.0) if isinstance(before, Masked) else value)


def _is_clipped(node: fx.Node) -> bool:
    """Whether a ReLU alone reads the output of a layer, or its sum with something else."""
    end = node if added_to(node) is None else next(iter(node.users))
    users = list(end.users)
    return len(users) == 1 and users[0].target == torch.ops.aten.relu.default
