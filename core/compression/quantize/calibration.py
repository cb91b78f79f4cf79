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
                raise ModelpressError(
                    "non_finite", f"Calibration samples give NaN or infinity at {n.name}.", node=n.name
                )
            histogram.add(value)
        return value


def watch(module: fx.GraphModule, nodes: Iterable[str], batches: Iterable[Inputs]) -> dict[str, Histogram]:
    """Histograms of the values of `nodes` over all batches, in memory that does not grow with them."""
    histograms = {node: Histogram() for node in nodes}
    watcher = _Watcher(module, histograms)
    with torch.no_grad():
        for inputs in batches:
            watcher.run(*inputs)
    return histograms
