"""Runs calibration samples through a network and remembers the values that may have to be rounded."""

from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor, fx

from core.compression.quantize.observers import Histogram
from core.errors import ModelpressError

Inputs = tuple[Tensor, ...]


@final
class _Watcher(fx.Interpreter):
    """Adds the value of each watched node to its histogram."""

    def __init__(self, module: fx.GraphModule, histograms: Mapping[str, Histogram]) -> None:
        super().__init__(module)
        self._histograms = histograms

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        histogram = self._histograms.get(n.name)
        if histogram is not None and isinstance(value, Tensor):
            if not bool(torch.isfinite(value).all()):
                behind = f", behind the layer {layer}" if (layer := _layer_before(n)) else ""
                text = f"Calibration samples give NaN or infinity at {n.name}{behind}."
                raise ModelpressError("non_finite", text, node=n.name)
            histogram.add(value)
        return value


def _layer_before(node: fx.Node) -> str | None:
    """The path of the layer that a value comes from; None where it is an input."""
    while node.op != "call_module" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "call_module" else None


def watch(module: fx.GraphModule, nodes: Iterable[str], batches: Iterable[Inputs]) -> dict[str, Histogram]:
    """Histograms of the values of `nodes` over all batches, in memory that does not grow with them.

    Raises `non_finite` for values that are no numbers, and `missing_data` where there is no batch.
    """
    histograms = {node: Histogram() for node in nodes}
    watcher = _Watcher(module, histograms)
    passed = False
    with torch.no_grad():
        for inputs in batches:
            watcher.run(*inputs)
            passed = True
    if histograms and not passed:
        raise ModelpressError("missing_data", "The calibration split has too few samples for one batch.")
    return histograms
